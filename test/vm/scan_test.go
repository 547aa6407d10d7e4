//go:build linux

package vm_test

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/weft-net/weft/test/vm"
)

// TestNeeding finds tests by what they call, and refuses calls that it cannot place.
func TestNeeding(t *testing.T) {
	root := t.TempDir()
	file := func(name, text string) {
		t.Helper()
		path := filepath.Join(root, name)
		if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	const call = "{ kerneltest.Needs(t, \"vlan\") }"
	file("b/b_test.go", "package b\nfunc TestTwo(t *testing.T) { t.Run(\"\", func(t *testing.T) "+call+") }\nfunc TestNot(t *testing.T) {}\nfunc BenchmarkNot(t *testing.B) "+call)
	file("a/deep/a_test.go", "package deep_test\nfunc TestOne(t *testing.T) "+call)
	file("a/deep/c_test.go", "package deep_test\nfunc TestThree(t *testing.T) "+call)
	file("a/a.go", "package a\nfunc TestNone(t *testing.T) "+call)
	file("a/bench_test.go", "//go:build bench\n\npackage a\nfunc TestNone(t *testing.T) "+call)
	file("a/testdata/x_test.go", "package x\nfunc TestNone(t *testing.T) "+call)
	got, err := vm.Needing(root)
	if err != nil {
		t.Fatal(err)
	}
	want := []vm.Suite{{Dir: "a/deep", Tests: []string{"TestOne", "TestThree"}}, {Dir: "b", Tests: []string{"TestTwo"}}}
	if d := cmp.Diff(want, got); d != "" {
		t.Errorf("-want +got:\n%s", d)
	}
	file("c/c_test.go", "package c\nfunc helper(t *testing.T) "+call)
	if _, err := vm.Needing(root); err == nil || !strings.Contains(err.Error(), "c_test.go:2") {
		t.Errorf("a call in a helper: %v", err)
	}
}

// TestHere: the tests of this module that need a stock kernel are found.
func TestHere(t *testing.T) {
	suites, err := vm.Needing("../..")
	if err != nil {
		t.Fatal(err)
	}
	all, engine := "", false
	for _, s := range suites {
		engine = engine || s.HasEngine()
		all += s.Dir + ": " + strings.Join(s.Tests, " ") + "\n"
	}
	for _, want := range []string{"driver/parented: ", "TestTrunk", "internal/kernel: ", "TestVLANConformance"} {
		if !strings.Contains(all, want) {
			t.Errorf("%q is missing in\n%s", want, all)
		}
	}
	if !engine {
		t.Errorf("none of them has an engine:\n%s", all)
	}
}
