package directory

import (
	"fmt"
	"maps"
	"slices"
	"strings"
	"testing"

	"github.com/weft-net/weft/internal/ownership"
	"github.com/weft-net/weft/internal/store"
)

// TestUnkept: of too much, what was kept before stays; and this host's own records, those
// without a name and those that are no record are none of it.
func TestUnkept(t *testing.T) {
	a := &attended{synced: true, seen: map[string]store.KV{}}
	d := &Directory{attended: map[string]*attended{"u": a}, memory: memory{records: map[string][]byte{}}}
	see := func(host, id, value string) {
		key := hostKeys("u", ownership.Host(host)) + id
		a.seen[key] = store.KV{Key: key, Value: []byte(value), Rev: 5}
	}
	big := func(i int) string {
		return fmt.Sprintf(`{"v":1,"names":["%d%s"]}`, i, strings.Repeat("x", mostKept/10))
	}
	look := func() (string, int) {
		ops, next := d.unkept("me")
		d.memory.records = next
		var ids []string
		for _, key := range slices.Sorted(maps.Keys(next)) {
			ids = append(ids, key[strings.LastIndexByte(key, '/')+1:])
		}
		return strings.Join(ids, " "), len(ops)
	}
	see("h2", "b1", big(1))
	see("h2", "bare", `{"v":1,"mac":"02:00:00:00:00:01"}`)
	see("h2", "broken", `{"v":1,"names":[`)
	see("me", "mine", `{"v":1,"names":["mine"]}`)
	if got, ops := look(); got != "b1" || ops != 1 {
		t.Fatalf("%d changes for %s", ops, got)
	}
	for i := range 20 {
		see("h2", fmt.Sprintf("a%02d", i), big(i))
	}
	got, ops := look()
	if n := len(strings.Fields(got)); n != 9 || ops != 8 || !strings.HasSuffix(got, " b1") {
		t.Errorf("%d changes for %d: %s", ops, n, got)
	}
	if again, ops := look(); again != got || ops != 0 {
		t.Errorf("%d changes for nothing: %s", ops, again)
	}
	see("h2", "b1", `{"v":1,"mac":"02:00:00:00:00:01"}`)
	if got, ops := look(); strings.Contains(got, "b1") || ops != 2 {
		t.Errorf("one without a name: %d changes, %s", ops, got)
	}
	delete(d.attended, "u")
	if got, ops := look(); got != "" || ops != 9 {
		t.Errorf("a network that is gone: %d changes, %s", ops, got)
	}
}
