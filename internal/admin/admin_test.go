package admin_test

import (
	"context"
	"errors"
	"log/slog"
	"os"
	"path/filepath"
	"testing"

	"github.com/weft-net/weft/internal/admin"
)

func TestAdmin(t *testing.T) {
	dir := t.TempDir()
	path := filepath.Join(dir, admin.SocketName)
	if err := os.WriteFile(path, nil, 0o600); err != nil { // left by a killed daemon
		t.Fatal(err)
	}
	if _, err := admin.Dial(t.Context(), path); !errors.Is(err, admin.ErrNotRunning) {
		t.Errorf("nobody listens: %v", err)
	}
	resets := 0
	src := admin.Source{
		Status:    func(context.Context) (admin.Status, error) { return admin.Status{PID: 7, Direct: true}, nil },
		Networks:  func(context.Context) ([]admin.Network, error) { return []admin.Network{{ID: "n"}}, nil },
		Endpoints: func(context.Context) ([]admin.Endpoint, error) { return nil, errors.New("the journal is gone") },
		Ports:     func(context.Context) ([]admin.Port, error) { return []admin.Port{}, nil },
		Pools:     func(context.Context) ([]admin.Pool, error) { return []admin.Pool{{Domain: "d"}}, nil },
		Reset:     func(context.Context) error { resets++; return nil },
	}
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error)
	l, err := admin.Listen(ctx, dir)
	if err != nil {
		t.Fatal(err)
	}
	// Who asks before there are answers waits, and is not told that nobody is there.
	c, err := admin.Dial(t.Context(), path)
	if err != nil {
		t.Fatal(err)
	}
	go func() { done <- admin.Serve(ctx, l, src, slog.New(slog.DiscardHandler)) }()
	if info, err := os.Stat(path); err != nil || info.Mode().Perm() != 0o600 {
		t.Errorf("mode %v, %v", info.Mode(), err)
	}
	if st, err := c.Status(t.Context()); err != nil || st.PID != 7 || !st.Direct {
		t.Errorf("status %+v, %v", st, err)
	}
	if list, err := c.Networks(t.Context()); err != nil || len(list) != 1 || list[0].ID != "n" {
		t.Errorf("networks %+v, %v", list, err)
	}
	if _, err := c.Endpoints(t.Context()); err == nil || err.Error() != "the journal is gone" {
		t.Errorf("endpoints: %v", err)
	}
	if list, err := c.Ports(t.Context()); err != nil || list == nil {
		t.Errorf("ports %v, %v", list, err)
	}
	if list, err := c.Pools(t.Context()); err != nil || len(list) != 1 || list[0].Domain != "d" {
		t.Errorf("pools %v, %v", list, err)
	}
	if err := c.Reset(t.Context()); err != nil || resets != 1 {
		t.Errorf("reset %d, %v", resets, err)
	}
	cancel()
	if err := <-done; err != nil {
		t.Error(err)
	}
}
