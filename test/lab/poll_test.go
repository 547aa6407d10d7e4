//go:build linux

package lab

import (
	"context"
	"errors"
	"os"
	"strings"
	"testing"
	"time"
)

func TestUntil(t *testing.T) {
	calls := 0
	err := Until(t.Context(), "three calls", func(context.Context) error {
		if calls++; calls < 3 {
			return errors.New("too few")
		}
		return nil
	})
	if err != nil || calls != 3 {
		t.Errorf("%d calls, %v", calls, err)
	}

	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Millisecond)
	defer cancel()
	err = Until(ctx, "the impossible", func(context.Context) error { return errors.New("never") })
	if !errors.Is(err, context.DeadlineExceeded) || !strings.Contains(err.Error(), "the impossible") || !strings.Contains(err.Error(), "never") {
		t.Errorf("got %v", err)
	}
}

func TestEnvName(t *testing.T) {
	if got := envName("host-1a"); got != "HOST_1A" {
		t.Errorf("got %s", got)
	}
}

func TestTail(t *testing.T) {
	for _, c := range []struct {
		text  string
		lines int
		want  string
	}{
		{"a\nb\nc\n", 2, "b\nc"},
		{"a", 5, "a"},
		{"", 5, ""},
	} {
		if got := tail(c.text, c.lines); got != c.want {
			t.Errorf("tail(%q, %d) = %q", c.text, c.lines, got)
		}
	}
}

func TestProcessAlive(t *testing.T) {
	self := process{os.Getpid(), startTime(os.Getpid())}
	if !self.alive() {
		t.Error("this process is not alive")
	}
	if other := (process{self.PID, self.Start + 1}); other.alive() {
		t.Error("a process with this ID and another start is alive")
	}
	if (process{}).alive() {
		t.Error("no process is alive")
	}
}
