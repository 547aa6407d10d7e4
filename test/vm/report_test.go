//go:build linux

package vm_test

import (
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/weft-net/weft/test/vm"
)

// TestFaults: what makes a run a bad one.
func TestFaults(t *testing.T) {
	const good = "=== RUN   TestA\n--- PASS: TestA (0.10s)\n    --- PASS: TestA/sub (0.10s)\n=== RUN   TestB\n--- PASS: TestB (0.00s)\nPASS\n"
	end := vm.End(0, 0, time.Second)
	for _, c := range []struct {
		name, text string
		done       bool
		want       []string
	}{
		{"good", vm.Begin(0) + good + end + vm.Done(), true, nil},
		{"good, from a serial line", strings.ReplaceAll("[    0.1] boots\n"+vm.Begin(0)+good+end+vm.Done(), "\n", "\r\n"), true, nil},
		{"failed", vm.Begin(0) + strings.Replace(good, "PASS: TestB", "FAIL: TestB", 1) + vm.End(0, 1, 0) + vm.Done(), true,
			[]string{"the tests ended with status 1", "TestB failed", "TestB did not pass"}},
		{"failed, and only the status says so", vm.Begin(0) + good + vm.End(0, 1, 0) + vm.Done(), true, []string{"the tests ended with status 1"}},
		{"skipped", vm.Begin(0) + strings.Replace(good, "PASS: TestB", "SKIP: TestB", 1) + end + vm.Done(), true,
			[]string{"TestB was skipped", "TestB did not pass"}},
		{"a part skipped", vm.Begin(0) + strings.Replace(good, "PASS: TestA/sub", "SKIP: TestA/sub", 1) + end + vm.Done(), true,
			[]string{"TestA/sub was skipped"}},
		{"missing", vm.Begin(0) + strings.Replace(good, "TestB", "TestC", 2) + end + vm.Done(), true, []string{"TestB did not pass"}},
		{"nothing ran", vm.Begin(0) + "testing: warning: no tests to run\nPASS\n" + end + vm.Done(), true, []string{"TestA did not pass", "TestB did not pass"}},
		{"cut off", vm.Begin(0) + good, false, []string{"the tests did not come to an end"}},
		{"cut off in its end", vm.Begin(0) + good + end[:len(end)-12], false, []string{"the tests did not come to an end"}},
		{"cut off after its end", vm.Begin(0) + good + end, false, nil},
		{"silent", "", false, []string{"the tests did not come to an end", "TestA did not pass", "TestB did not pass"}},
		{"the end of another one", vm.Begin(0) + good + vm.End(1, 0, 0) + vm.Done(), false, []string{"the tests did not come to an end"}},
	} {
		results, done := vm.Parse(c.text, []vm.Suite{{Dir: "a", Tests: []string{"TestA", "TestB"}}})
		if done != c.done {
			t.Errorf("%s: done is %t", c.name, done)
		}
		if d := cmp.Diff(c.want, results[0].Faults()); d != "" {
			t.Errorf("%s (-want +got):\n%s", c.name, d)
		}
	}
}

// TestOutput: each suite has its own.
func TestOutput(t *testing.T) {
	text := vm.Begin(0) + "one\n" + vm.End(0, 0, 1500*time.Millisecond) + vm.Begin(1) + "two\n" + vm.End(1, 3, 0) + vm.Done()
	got, _ := vm.Parse(text, []vm.Suite{{Dir: "a"}, {Dir: "b"}})
	want := []vm.Result{
		{Suite: vm.Suite{Dir: "a"}, Output: "one\n", Ended: true, Took: 1500 * time.Millisecond},
		{Suite: vm.Suite{Dir: "b"}, Output: "two\n", Ended: true, Status: 3},
	}
	if d := cmp.Diff(want, got); d != "" {
		t.Errorf("-want +got:\n%s", d)
	}
}
