package ipam_test

import (
	"bytes"
	"encoding/json"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
)

// mutants are mistakes that the model has to find, as changes of the real source: what is
// there, and what is there instead, and so on. One program has them all, and makes the one
// whose name Mutant is.
var mutants = []struct {
	name  string
	file  string
	edits []string
}{
	{
		name: "give before journal",
		file: "../internal/ownership/plan.go",
		edits: []string{
			"\tif begins := c.Own & going; begins != 0 {\n",
			`	for _, g := range c.grants {
		if Mutant == "give before journal" && g.bit&c.Own != 0 {
			return p.give(c, g), true
		}
	}
	if begins := c.Own & going; begins != 0 {
`,
		},
	},
	{
		// The model's store takes what follows the zero byte for the value.
		name: "compare value instead of revision",
		file: "../internal/ownership/plan.go",
		edits: []string{
			"\t\tIf:   []store.Cond{store.Unchanged(key, c.rev)},\n",
			"\t\tIf:   []store.Cond{c.unchanged(key)},\n",
			"// give makes the task",
			`func (c *chunk) unchanged(key string) store.Cond {
	switch {
	case Mutant != "compare value instead of revision":
		return store.Unchanged(key, c.rev)
	case c.rev == 0:
		return store.Cond{Key: key + "\x00", Rev: c.rev}
	}
	return store.Cond{Key: key + "\x00" + string(c.rec.Encode()), Rev: c.rev}
}

// give makes the task`,
		},
	},
	{
		name: "trust a read after an unknown outcome",
		file: "../internal/ownership/pool.go",
		edits: []string{
			"\tif kv.Rev <= c.rev {\n\t\treturn\n",
			"\tc.unsure = c.unsure && Mutant != \"trust a read after an unknown outcome\"\n\tif kv.Rev <= c.rev {\n\t\treturn\n",
			"\tp.rev, p.synced = rev, true\n",
			"\tp.rev, p.synced = rev, true\n\tfor _, c := range p.order {\n\t\tc.unsure = c.unsure && Mutant != \"trust a read after an unknown outcome\"\n\t}\n",
		},
	},
	{
		name: "nothing is in conflict",
		file: "conflict.go",
		edits: []string{
			"\t\tif !taken {\n",
			"\t\tif !taken || ownership.Mutant == \"nothing is in conflict\" {\n",
		},
	},
}

// TestModelFindsMutants changes the source for a program that plays the schedules of
// [TestModel], which must fail with a broken promise.
func TestModelFindsMutants(t *testing.T) {
	t.Parallel()
	program := buildMutants(t)
	found := regexp.MustCompile(`rapid\] failed after .*(has two holders|not a subset|but the store does not say so|is not off the network)`)
	for _, m := range mutants {
		t.Run(m.name, func(t *testing.T) {
			const most = 3 // runs of the model: it misses a mistake in one of 200 at most
			var out []byte
			var err error
			for range most {
				model := exec.CommandContext(t.Context(), program, "-test.run=^TestModel$/schedules/batch",
					"-rapid.checks=100", "-rapid.nofailfile", "-rapid.shrinktime=10ms")
				model.Env = append(os.Environ(), "MUTANT="+m.name)
				out, err = model.CombinedOutput()
				if line := found.Find(out); err != nil && line != nil {
					t.Logf("found: %s", line)
					if !bytes.Contains(out, []byte("host 1: starts")) {
						t.Errorf("nothing tells how:\n%.4000s", out)
					}
					return
				}
			}
			t.Fatalf("the model did not find it (%v):\n%.4000s", err, out)
		})
	}
}

// buildMutants builds the tests with all mistakes in the source, and returns their program.
// It makes the one that MUTANT in its environment names.
func buildMutants(t *testing.T) string {
	t.Helper()
	texts := map[string]string{
		"../internal/ownership/mutant.go": "package ownership\n\nimport \"os\"\n\n// Mutant is the mistake.\nvar Mutant = os.Getenv(\"MUTANT\")\n",
	}
	for _, m := range mutants {
		if texts[m.file] == "" {
			source, err := os.ReadFile(m.file)
			if err != nil {
				t.Fatal(err)
			}
			texts[m.file] = string(source)
		}
		for i := 0; i < len(m.edits); i += 2 {
			if strings.Count(texts[m.file], m.edits[i]) != 1 {
				t.Fatalf("%s does not have %q once: write the mutation anew", m.file, m.edits[i])
			}
			texts[m.file] = strings.Replace(texts[m.file], m.edits[i], m.edits[i+1], 1)
		}
	}
	dir := t.TempDir()
	overlay := map[string]map[string]string{"Replace": {}}
	for file, text := range texts {
		real, err := filepath.Abs(file)
		if err != nil {
			t.Fatal(err)
		}
		patched := filepath.Join(dir, fmt.Sprint(len(overlay["Replace"]), ".go"))
		overlay["Replace"][real] = patched
		if err := os.WriteFile(patched, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	list, err := json.Marshal(overlay)
	if err != nil {
		t.Fatal(err)
	}
	lists, program := filepath.Join(dir, "overlay.json"), filepath.Join(dir, "model.test")
	if err := os.WriteFile(lists, list, 0o600); err != nil {
		t.Fatal(err)
	}
	out, err := exec.CommandContext(t.Context(), "go", "test", "-c", "-vet=off", "-ldflags=-s -w", "-overlay", lists, "-o", program, ".").CombinedOutput()
	if err != nil {
		t.Fatalf("the mutants do not compile: %v\n%s", err, out)
	}
	return program
}
