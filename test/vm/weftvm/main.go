//go:build linux

// Command weftvm runs the tests that need Debian's stock kernel in an emulated machine;
// see package vm.
package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/signal"
	"regexp"
	"slices"
	"strings"
	"time"

	"github.com/weft-net/weft/test/vm"
)

const usage = `usage: weftvm COMMAND, in the module's folder

  fetch            fetch the kernel if it is not in the cache
  run [REGEXP]     run all tests that call kerneltest.Needs, or those of that name

One suite is told with an engine and the plugin of make plugin. WEFT_VM_ENGINE names the
engine: 20.10.24, 26.1.5 or 28.5.2, the default. Everything of a run is in build/vm.
`

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt)
	defer stop()
	if err := run(ctx, os.Stdout, os.Args[1:]); err != nil {
		fmt.Fprintln(os.Stderr, "weftvm:", err)
		os.Exit(1)
	}
}

func run(ctx context.Context, out io.Writer, args []string) error {
	switch {
	case slices.Equal(args, []string{"fetch"}):
		_, err := vm.Fetch(ctx)
		return err
	case len(args) > 0 && len(args) < 3 && args[0] == "run":
		return tests(ctx, out, append(args, "")[1])
	}
	return errors.New(usage)
}

// tests runs the tests, and before them some that fail: if that did not show, the others
// would say nothing.
func tests(ctx context.Context, out io.Writer, pattern string) error {
	names, err := regexp.Compile(pattern)
	if err != nil {
		return err
	}
	suites, err := vm.Needing(".")
	if err != nil {
		return err
	}
	for i := range suites {
		suites[i].Tests = slices.DeleteFunc(suites[i].Tests, func(name string) bool { return !names.MatchString(name) })
	}
	suites = slices.DeleteFunc(suites, func(s vm.Suite) bool { return len(s.Tests) == 0 })
	if len(suites) == 0 {
		return errors.New("no such test here calls kerneltest.Needs: run this in the module's folder")
	}
	k, err := vm.Fetch(ctx)
	if err != nil {
		return err
	}
	canary := vm.Suite{Dir: "test/vm/testdata/canary", Tests: []string{"TestPasses", "TestFails", "TestSkips"}}
	begin := time.Now()
	results, err := vm.Run(ctx, k, append([]vm.Suite{canary}, suites...), "build/vm")
	if len(results) == 0 {
		return err
	}
	bad := 0
	want := []string{"the tests ended with status 1", "TestFails failed", "TestSkips was skipped", "TestFails did not pass", "TestSkips did not pass"}
	if got := results[0].Faults(); err == nil && !slices.Equal(got, want) {
		err = fmt.Errorf("what has to fail gives %q, not %q", got, want)
	}
	for _, r := range results[1:] {
		bad += show(out, r)
	}
	fmt.Fprintf(out, "%d packages on Debian's stock kernel, after %.0f s\n", len(results)-1, time.Since(begin).Seconds())
	if bad > 0 {
		err = errors.Join(err, fmt.Errorf("%d of them failed", bad))
	}
	return err
}

// show writes one line for a good suite, and everything of a bad one. It returns 1 for a
// bad one.
func show(out io.Writer, r vm.Result) (bad int) {
	name := "github.com/weft-net/weft/" + r.Dir
	faults := r.Faults()
	if len(faults) == 0 {
		fmt.Fprintf(out, "ok  \t%s\t%.1fs\t%d tests\n", name, r.Took.Seconds(), len(r.Tests))
		return 0
	}
	fmt.Fprintf(out, "%s--- %s\nFAIL\t%s\t%.1fs\n", r.Output, strings.Join(faults, "\n--- "), name, r.Took.Seconds())
	return 1
}
