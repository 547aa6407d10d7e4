package directory

import (
	"fmt"
	"strings"
	"testing"

	"github.com/weft-net/weft/internal/store"
)

// TestParts: no transaction has too many changes or, unless it is one alone, too many bytes;
// and all changes are made, in their order.
func TestParts(t *testing.T) {
	var ops []store.Op
	for i, size := range []int{10, 80, 20, 300, 5, 5, 5, 5} {
		ops = append(ops, store.Put(fmt.Sprint(i), []byte(strings.Repeat("x", size-1))))
	}
	var got []string
	for _, txn := range parts(ops, 3, 100) {
		var keys string
		for _, op := range txn.Then {
			keys += op.Key
		}
		got = append(got, keys)
	}
	if text := strings.Join(got, " "); text != "01 2 3 456 7" {
		t.Error(text)
	}
	if out := parts(nil, 3, 100); len(out) != 0 {
		t.Errorf("%d for nothing", len(out))
	}
}
