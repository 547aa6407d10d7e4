package daemon_test

import (
	"context"
	"errors"
	"log/slog"
	"net"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"github.com/weft-net/weft/internal/daemon"
)

func wait(ctx context.Context) error { <-ctx.Done(); return nil }

func TestRun(t *testing.T) {
	log := slog.New(slog.DiscardHandler)
	broken := errors.New("broken")
	err := daemon.Run(t.Context(), log, daemon.Task{Name: "good", Run: wait},
		daemon.Task{Name: "bad", Run: func(context.Context) error { return broken }})
	if !errors.Is(err, broken) || !strings.Contains(err.Error(), "bad") {
		t.Errorf("failing task: %v", err)
	}
	err = daemon.Run(t.Context(), log, daemon.Task{Name: "short", Run: func(context.Context) error { return nil }})
	if err == nil || !strings.Contains(err.Error(), "short: ended by itself") {
		t.Errorf("task that ends: %v", err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if err := daemon.Run(ctx, log, daemon.Task{Name: "good", Run: wait}); err != nil {
		t.Errorf("ended context: %v", err)
	}
	started := make(chan struct{})
	go func() {
		<-started
		_ = syscall.Kill(syscall.Getpid(), syscall.SIGTERM)
	}()
	err = daemon.Run(t.Context(), log, daemon.Task{Name: "good", Run: func(ctx context.Context) error { close(started); return wait(ctx) }})
	if err != nil {
		t.Errorf("signal: %v", err)
	}
}

func TestNotify(t *testing.T) {
	if err := daemon.Notify("READY=1"); err != nil {
		t.Errorf("without systemd: %v", err)
	}
	path := filepath.Join(t.TempDir(), "notify")
	conn, err := net.ListenUnixgram("unixgram", &net.UnixAddr{Name: path, Net: "unixgram"})
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	t.Setenv("NOTIFY_SOCKET", path)
	if err := daemon.Notify("READY=1"); err != nil {
		t.Fatal(err)
	}
	buf := make([]byte, 100)
	if n, err := conn.Read(buf); err != nil || string(buf[:n]) != "READY=1" {
		t.Errorf("%q, %v", buf[:n], err)
	}
}
