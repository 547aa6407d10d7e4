// Package board collects what a benchmark measured, with its targets.
//
//	b := &board.Board{}
//	defer b.Print(t)
//	b.AtMost("p99", took, 50*time.Millisecond)
package board

import (
	"cmp"
	"fmt"
	"slices"
	"strings"
	"testing"
	"text/tabwriter"
	"time"
)

// A Board is a table of figures.
type Board struct{ rows []row }

type row struct {
	what, got, target string
	missed            bool
}

// Add adds a figure and says whether it missed its target.
func (b *Board) Add(missed bool, what, target, format string, args ...any) {
	b.rows = append(b.rows, row{what, fmt.Sprintf(format, args...), target, missed})
}

// Note adds a figure without a target.
func (b *Board) Note(what, format string, args ...any) { b.Add(false, what, "", format, args...) }

// AtMost adds a duration.
func (b *Board) AtMost(what string, got, most time.Duration) {
	b.Add(got > most, what, "≤ "+most.String(), "%v", got.Round(time.Microsecond))
}

// Print logs the table. A figure that missed its target fails the test.
func (b *Board) Print(t *testing.T) {
	t.Helper()
	var text strings.Builder
	tab := tabwriter.NewWriter(&text, 0, 8, 3, ' ', 0)
	for _, r := range b.rows {
		verdict := ""
		switch {
		case r.missed:
			verdict = "MISSED"
			t.Errorf("%s: %s, must be %s", r.what, r.got, r.target)
		case r.target != "":
			verdict = "ok"
		}
		fmt.Fprintf(tab, "%s\t%s\t%s\t%s\n", r.what, r.got, r.target, verdict)
	}
	if err := tab.Flush(); err != nil {
		t.Error(err)
	}
	t.Logf("\n%s", text.String())
}

// Quantile is the value that a share of all does not exceed.
func Quantile[T cmp.Ordered](all []T, share float64) T {
	sorted := slices.Sorted(slices.Values(all))
	return sorted[min(int(share*float64(len(sorted))), len(sorted)-1)]
}

// Median is the middle one of all.
func Median[T cmp.Ordered](all []T) T { return Quantile(all, 0.5) }
