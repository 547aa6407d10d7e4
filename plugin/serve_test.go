package plugin_test

import (
	"context"
	"errors"
	"io/fs"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/weft-net/weft/plugin"
)

func TestDrain(t *testing.T) {
	s := serve(t, plugin.Config{})
	started, release := make(chan struct{}), make(chan struct{})
	s.stub.on = func(context.Context, string, any) error { close(started); <-release; return nil }
	answered := make(chan reply, 1)
	go func() { answered <- s.do(t, "POST", "/NetworkDriver.Leave", []byte(leave)) }()
	<-started
	s.stop()
	select {
	case err := <-s.served:
		t.Fatalf("Serve returned before the call did: %v", err)
	case <-time.After(50 * time.Millisecond):
	}
	close(release)
	if got := <-answered; got.status != 200 {
		t.Errorf("the running call: status %d, %s", got.status, got.body)
	}
	if err := <-s.served; err != nil {
		t.Errorf("Serve: %v", err)
	}
}

func TestDrainGivesUp(t *testing.T) {
	s := serve(t, plugin.Config{Timeout: 20 * time.Millisecond, DrainTimeout: 50 * time.Millisecond})
	release := make(chan struct{})
	defer close(release)
	s.stub.on = func(context.Context, string, any) error { <-release; return nil }
	s.do(t, "POST", "/NetworkDriver.Join", []byte(`{"NetworkID":"n","EndpointID":"e","SandboxKey":"k"}`))
	s.stop()
	if err := <-s.served; err == nil || !strings.Contains(err.Error(), "NetworkDriver.Join") {
		t.Errorf("Serve: %v, want an error that names Join", err)
	}
}

func TestListenerFails(t *testing.T) {
	l, err := plugin.Listen(t.Context(), filepath.Join(t.TempDir(), "s"))
	if err != nil {
		t.Fatal(err)
	}
	if err := l.Close(); err != nil {
		t.Fatal(err)
	}
	if err := plugin.New(plugin.Config{}).Serve(t.Context(), l); !errors.Is(err, net.ErrClosed) {
		t.Errorf("Serve: %v", err)
	}
}

func TestListen(t *testing.T) {
	path := filepath.Join(t.TempDir(), "a", "b", "w.sock")
	first, err := plugin.Listen(t.Context(), path)
	if err != nil {
		t.Fatal(err)
	}
	info, err := os.Stat(path)
	if err != nil || info.Mode() != fs.ModeSocket|0o600 {
		t.Errorf("mode %v, %v", info.Mode(), err)
	}
	if _, err := plugin.Listen(t.Context(), path); !errors.Is(err, plugin.ErrSocketInUse) {
		t.Errorf("a second Listen: %v", err)
	}
	first.(*net.UnixListener).SetUnlinkOnClose(false) // as after a crash
	if err := first.Close(); err != nil {
		t.Fatal(err)
	}
	second, err := plugin.Listen(t.Context(), path)
	if err != nil {
		t.Fatalf("over a stale socket: %v", err)
	}
	if err := second.Close(); err != nil {
		t.Fatal(err)
	}
	if _, err := os.Stat(path); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("the socket is still there: %v", err)
	}
	if err := os.WriteFile(path, []byte("precious"), 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := plugin.Listen(t.Context(), path); err == nil || !strings.Contains(err.Error(), "not a socket") {
		t.Errorf("over a file: %v", err)
	}
	if data, err := os.ReadFile(path); err != nil || string(data) != "precious" {
		t.Errorf("the file was touched: %q, %v", data, err)
	}
}

// TestActivation runs itself in a child process that got a socket as systemd
// passes one.
func TestActivation(t *testing.T) {
	if os.Getenv("WEFT_TEST_ACTIVATED") != "" {
		l, err := plugin.ActivationListener()
		if err != nil || l == nil {
			t.Fatalf("listener %v, %v", l, err)
		}
		if os.Getenv("LISTEN_FDS") != "" {
			t.Error("LISTEN_FDS is still set")
		}
		conn, err := l.Accept()
		if err != nil {
			t.Fatal(err)
		}
		_ = conn.Close()
		return
	}
	path := filepath.Join(t.TempDir(), "s")
	l, err := plugin.Listen(t.Context(), path)
	if err != nil {
		t.Fatal(err)
	}
	file, err := l.(*net.UnixListener).File()
	if err != nil {
		t.Fatal(err)
	}
	cmd := exec.CommandContext(t.Context(), "sh", "-c", `LISTEN_PID=$$ exec "$0" -test.run='^TestActivation$'`, os.Args[0])
	cmd.Env = append(os.Environ(), "WEFT_TEST_ACTIVATED=1", "LISTEN_FDS=1")
	cmd.ExtraFiles = []*os.File{file}
	conn, err := net.Dial("unix", path)
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Errorf("%v\n%s", err, out)
	}
	_ = file.Close()
	_ = l.Close()
}

func TestNotActivated(t *testing.T) {
	tests := []struct{ name, pid, fds, want string }{
		{"no systemd", "", "", ""},
		{"for another process", "1", "1", ""},
		{"bad pid", "x", "1", "LISTEN_PID"},
		{"bad number", "self", "-1", "LISTEN_FDS"},
		{"two sockets", "self", "2", "2 sockets"},
		{"no socket", "self", "0", ""},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			pid := strings.Replace(tt.pid, "self", strconv.Itoa(os.Getpid()), 1)
			t.Setenv("LISTEN_PID", pid)
			t.Setenv("LISTEN_FDS", tt.fds)
			l, err := plugin.ActivationListener()
			if l != nil || (err == nil) != (tt.want == "") || (err != nil && !strings.Contains(err.Error(), tt.want)) {
				t.Errorf("listener %v, error %v; want ...%s...", l, err, tt.want)
			}
		})
	}
}
