//go:build linux

package vm

import (
	"fmt"
	"strings"
	"time"
)

// What the machine writes between the output of the tests. A suite is its place in the
// list.
const (
	beginWord = "@@ begin %d"
	endWord   = "@@ end %d status %d after %s"
	doneWord  = "@@ done"
)

// Begin is the line before the output of a suite.
func Begin(suite int) string { return fmt.Sprintf(beginWord+"\n", suite) }

// End is the line after it.
func End(suite, status int, took time.Duration) string {
	return fmt.Sprintf(endWord+"\n", suite, status, took.Round(time.Millisecond))
}

// Done is the machine's last line.
func Done() string { return doneWord + "\n" }

// A Result is what became of a suite.
type Result struct {
	Suite
	// Output is what its tests wrote.
	Output string
	// Ended says that they came to an end, Status is their exit status, and Took the time
	// by the machine's clock.
	Ended  bool
	Status int
	Took   time.Duration
}

// Parse reads what the machine wrote: a result for each suite, and whether it came to the
// last line.
func Parse(text string, suites []Suite) (results []Result, done bool) {
	results = make([]Result, len(suites))
	for i, s := range suites {
		results[i].Suite = s
	}
	current := -1
	for line := range strings.Lines(text) {
		line = strings.TrimRight(line, "\r\n")
		var n, status int
		var took string
		if c, _ := fmt.Sscanf(line, beginWord, &n); c == 1 && n >= 0 && n < len(suites) {
			current = n
			continue
		}
		if c, _ := fmt.Sscanf(line, endWord, &n, &status, &took); c == 3 && n == current {
			r := &results[current]
			r.Ended, r.Status = true, status
			r.Took, _ = time.ParseDuration(took) // only shown
			current = -1
			continue
		}
		if done = line == doneWord; done {
			return results, current < 0
		}
		if current >= 0 {
			results[current].Output += line + "\n"
		}
	}
	return results, false
}

// Faults says why the suite is not good: a test that failed, was skipped or is missing,
// or no end. A good one has none.
func (r Result) Faults() []string {
	var out []string
	switch {
	case !r.Ended:
		out = append(out, "the tests did not come to an end")
	case r.Status != 0:
		out = append(out, fmt.Sprintf("the tests ended with status %d", r.Status))
	}
	passed := map[string]bool{}
	for line := range strings.Lines(r.Output) {
		word, rest, _ := strings.Cut(strings.TrimSpace(line), ": ")
		name, _, _ := strings.Cut(rest, " ")
		switch word {
		case "--- PASS":
			passed[name] = true
		case "--- SKIP":
			out = append(out, name+" was skipped")
		case "--- FAIL":
			out = append(out, name+" failed")
		}
	}
	for _, name := range r.Tests {
		if !passed[name] {
			out = append(out, name+" did not pass")
		}
	}
	return out
}
