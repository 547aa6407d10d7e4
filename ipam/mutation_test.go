package ipam_test

import (
	"encoding/json"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
)

// mutants are mistakes that the model has to find, as changes of the real source.
var mutants = []struct {
	name string
	file string
	old  []string
	new  []string
}{
	{
		name: "give before journal",
		file: "../internal/ownership/plan.go",
		old:  []string{"\tif begins := c.Own & going; begins != 0 {\n"},
		new: []string{`	for _, g := range c.grants {
		if g.bit&c.Own != 0 {
			return p.give(c, g), true
		}
	}
	if begins := c.Own & going; begins != 0 {
`},
	},
	{
		// The model's store takes what follows the zero byte for the value.
		name: "compare value instead of revision",
		file: "../internal/ownership/plan.go",
		old: []string{
			"\t\tIf:   []store.Cond{store.Unchanged(key, c.rev)},\n",
			"// give makes the task",
		},
		new: []string{
			"\t\tIf:   []store.Cond{{Key: key + \"\\x00\" + c.value(), Rev: c.rev}},\n",
			`func (c *chunk) value() string {
	if c.rev == 0 {
		return ""
	}
	return string(c.rec.Encode())
}

// give makes the task`,
		},
	},
	{
		name: "trust a read after an unknown outcome",
		file: "../internal/ownership/pool.go",
		old: []string{
			"\tif kv.Rev <= c.rev {\n\t\treturn\n",
			"\tp.rev, p.synced = rev, true\n",
		},
		new: []string{
			"\tc.unsure = false\n\tif kv.Rev <= c.rev {\n\t\treturn\n",
			"\tp.rev, p.synced = rev, true\n\tfor _, c := range p.order {\n\t\tc.unsure = false\n\t}\n",
		},
	},
	{
		name: "nothing is in conflict",
		file: "conflict.go",
		old:  []string{"\t\tif !taken {\n"},
		new:  []string{"\t\tif taken || !taken {\n"},
	},
}

// TestModelFindsMutants changes the source for a child process that plays the
// schedules of [TestModel], which must fail with a broken promise.
func TestModelFindsMutants(t *testing.T) {
	t.Parallel()
	found := regexp.MustCompile(`rapid\] failed after .*(has two holders|not a subset|but the store does not say so|is not off the network)`)
	for _, m := range mutants {
		t.Run(m.name, func(t *testing.T) {
			source, err := os.ReadFile(m.file)
			if err != nil {
				t.Fatal(err)
			}
			text := string(source)
			for i, old := range m.old {
				if strings.Count(text, old) != 1 {
					t.Fatalf("%s does not have %q once: write the mutation anew", m.file, old)
				}
				text = strings.Replace(text, old, m.new[i], 1)
			}
			const most = 5 // runs of the model, each of other schedules: some faults need luck
			var out []byte
			for range most {
				out, err = playMutant(t, m.file, text)
				if line := found.Find(out); err != nil && line != nil {
					t.Logf("found: %s", line)
					return
				}
				if err != nil {
					break // the mutant does not even compile, or broke otherwise
				}
			}
			t.Fatalf("the model did not find it (%v):\n%.4000s", err, out)
		})
	}
}

// playMutant runs the model with another text of one file.
func playMutant(t *testing.T, file, text string) ([]byte, error) {
	t.Helper()
	dir := t.TempDir()
	real, err := filepath.Abs(file)
	if err != nil {
		t.Fatal(err)
	}
	patched, overlay := filepath.Join(dir, "patched.go"), filepath.Join(dir, "overlay.json")
	list, err := json.Marshal(map[string]map[string]string{"Replace": {real: patched}})
	if err != nil {
		t.Fatal(err)
	}
	for name, content := range map[string][]byte{patched: []byte(text), overlay: list} {
		if err := os.WriteFile(name, content, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	cmd := exec.CommandContext(t.Context(), "go", "test", "-count=1", "-vet=off", "-ldflags=-s -w", "-failfast", "-overlay", overlay, "-run", "^TestModel$/schedules/batch", ".",
		"-rapid.checks=100", "-rapid.nofailfile", "-rapid.shrinktime=10ms")
	return cmd.CombinedOutput()
}
