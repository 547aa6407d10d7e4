package kerneltest

import (
	"errors"
	"testing"

	"github.com/weft-net/weft/internal/kernel"
)

// verdict is a test that notes how it ended.
type verdict struct {
	testing.TB
	word string
}

func (v *verdict) Helper()              {}
func (v *verdict) Skipf(string, ...any) { v.word = "skip" }
func (v *verdict) Fatal(...any)         { v.word = "fail" }

// TestNeeds: what a kernel lacks is skipped, but not on a stock kernel, which lacks nothing.
func TestNeeds(t *testing.T) {
	other := errors.New("no memory")
	for _, c := range []struct {
		err   error
		stock bool
		want  string
	}{
		{nil, false, ""}, {nil, true, ""},
		{kernel.ErrNotSupported, false, "skip"}, {kernel.ErrNotSupported, true, "fail"},
		{other, false, "fail"}, {other, true, "fail"},
	} {
		v := &verdict{}
		needs(v, func(string) error { return c.err }, c.stock, []string{"vlan"})
		if v.word != c.want {
			t.Errorf("%v, stock kernel %t: %q, want %q", c.err, c.stock, v.word, c.want)
		}
	}
}
