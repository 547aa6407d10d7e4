package journal_test

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"testing"

	"github.com/weft-net/weft/internal/journal"
)

type record struct{ N int }

func open(t testing.TB, path string) *journal.Journal {
	t.Helper()
	j, err := journal.Open(path)
	if err != nil {
		t.Fatal(err)
	}
	return j
}

func load(t testing.TB, j *journal.Journal) map[string]record {
	t.Helper()
	m, err := journal.Load[record](j, "b")
	if err != nil {
		t.Fatal(err)
	}
	return m
}

// TestDurable: what was committed is there after the file was opened again.
func TestDurable(t *testing.T) {
	path := filepath.Join(t.TempDir(), "deep", "journal.db")
	j := open(t, path)
	if err := j.Commit(t.Context(), journal.Put("b", "x", record{1}), journal.Put("b", "y", record{2})); err != nil {
		t.Fatal(err)
	}
	if err := j.Commit(t.Context(), journal.Delete("b", "x"), journal.Delete("none", "z")); err != nil {
		t.Fatal(err)
	}
	if err := j.Close(); err != nil {
		t.Fatal(err)
	}
	j = open(t, path)
	defer j.Close()
	if m := load(t, j); len(m) != 1 || m["y"].N != 2 {
		t.Errorf("records %v", m)
	}
	info, err := os.Stat(path)
	if err != nil || info.Mode().Perm() != 0o600 {
		t.Errorf("mode %v, %v", info.Mode(), err)
	}
}

// TestGroup: many commits at once all come through, each before its return.
func TestGroup(t *testing.T) {
	j := open(t, filepath.Join(t.TempDir(), "j"))
	defer j.Close()
	var wg sync.WaitGroup
	for i := range 200 {
		wg.Go(func() {
			key := fmt.Sprint(i)
			if err := j.Commit(t.Context(), journal.Put("b", key, record{i})); err != nil {
				t.Error(err)
			}
			if err := j.Each("b", func(k string, _ []byte) error {
				if k == key {
					return errors.New("found")
				}
				return nil
			}); err == nil {
				t.Errorf("%s is not there after its commit", key)
			}
		})
	}
	wg.Wait()
	if m := load(t, j); len(m) != 200 {
		t.Errorf("%d records", len(m))
	}
}

func TestErrors(t *testing.T) {
	dir := t.TempDir()
	j := open(t, filepath.Join(dir, "j"))
	if _, err := journal.Open(filepath.Join(dir, "j")); !errors.Is(err, journal.ErrLocked) {
		t.Errorf("second opening: %v", err)
	}
	if err := j.Commit(t.Context(), journal.Put("b", "f", func() {})); err == nil {
		t.Error("a function was stored")
	}
	if err := j.Commit(t.Context(), journal.Put("b", "bad", "text")); err != nil {
		t.Fatal(err)
	}
	if _, err := journal.Load[record](j, "b"); err == nil || !strings.Contains(err.Error(), "b/bad") {
		t.Errorf("damaged record: %v", err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if err := j.Commit(ctx, journal.Delete("b", "bad")); err != nil && !errors.Is(err, context.Canceled) {
		t.Errorf("ended context: %v", err)
	}
	if err := j.Close(); err != nil {
		t.Fatal(err)
	}
	if err := j.Commit(t.Context(), journal.Delete("b", "x")); !errors.Is(err, journal.ErrClosed) {
		t.Errorf("closed journal: %v", err)
	}
}

// TestKill: a process that is killed while it commits loses nothing that it
// had reported as durable.
func TestKill(t *testing.T) {
	if os.Getenv("JOURNAL_CHILD") != "" {
		j := open(t, os.Getenv("JOURNAL_CHILD"))
		for i := 0; ; i++ {
			if err := j.Commit(t.Context(), journal.Put("b", fmt.Sprint(i), record{i})); err != nil {
				t.Fatal(err)
			}
			fmt.Println("durable", i)
		}
	}
	path := filepath.Join(t.TempDir(), "j") // not the child's: it could not remove it
	cmd := exec.Command(os.Args[0], "-test.run=^TestKill$", "-test.v")
	cmd.Env = append(os.Environ(), "JOURNAL_CHILD="+path)
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	last := -1
	for last < 100 {
		var word string
		var n int
		if _, err := fmt.Fscanln(out, &word, &n); err == nil && word == "durable" {
			last = n
		}
	}
	if err := cmd.Process.Kill(); err != nil {
		t.Fatal(err)
	}
	_ = cmd.Wait() // killed
	j := open(t, path)
	defer j.Close()
	m := load(t, j)
	for i := range last + 1 {
		if _, ok := m[fmt.Sprint(i)]; !ok {
			t.Errorf("record %d of %d is lost", i, last)
		}
	}
}

func BenchmarkCommit(b *testing.B) {
	j := open(b, filepath.Join(b.TempDir(), "j"))
	defer j.Close()
	for b.Loop() {
		if err := j.Commit(b.Context(), journal.Put("b", "x", record{1})); err != nil {
			b.Fatal(err)
		}
	}
}
