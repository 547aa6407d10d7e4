package cluster

import (
	"testing"

	"github.com/weft-net/weft/internal/store"
)

// TestMemo: what is remembered is what the record says now.
func TestMemo(t *testing.T) {
	m := memo[Self]{}
	first := store.KV{Value: encode(Self{Name: "a"}), Rev: 1}
	for _, c := range []struct {
		what string
		kv   store.KV
		name string
		bad  bool
	}{
		{"first", first, "a", false},
		{"again", first, "a", false},
		{"other bytes at another revision", store.KV{Value: encode(Self{Name: "b"}), Rev: 2}, "b", false},
		{"not a record", store.KV{Value: []byte("?"), Rev: 3}, "", true},
		{"absent", store.KV{}, "", false},
		{"made again", first, "a", false},
	} {
		got, err := m.read("k", c.kv)
		if got.Name != c.name || (err != nil) != c.bad {
			t.Errorf("%s: %+v, %v", c.what, got, err)
		}
	}
	if avg := testing.AllocsPerRun(100, func() { _, _ = m.read("k", first) }); avg != 0 {
		t.Errorf("a record that did not change is read with %v allocations", avg)
	}
}
