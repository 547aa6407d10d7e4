package plugin_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"runtime"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/weft-net/weft/plugin"
)

const leave = `{"NetworkID":"n","EndpointID":"e"}`

func TestBadRequests(t *testing.T) {
	s := serve(t, plugin.Config{MaxBody: 512})
	tests := []struct {
		name, method, path, body string
		status                   int
		want                     string
	}{
		{"empty body as in a retry", "POST", "/NetworkDriver.Join", "", 500, "has no body"},
		{"blank body", "POST", "/NetworkDriver.Leave", " \n", 500, "has no body"},
		{"null body", "POST", "/IpamDriver.RequestPool", "null", 500, "has no body"},
		{"not JSON", "POST", "/NetworkDriver.Leave", "hello", 500, "is not one JSON value"},
		{"truncated", "POST", "/NetworkDriver.Leave", leave[:20], 500, "unexpected end of JSON input"},
		{"trailing garbage", "POST", "/NetworkDriver.Leave", leave + "x", 500, "after top-level value"},
		{"second value", "POST", "/NetworkDriver.Leave", leave + leave, 500, "after top-level value"},
		{"a list", "POST", "/NetworkDriver.Leave", "[1]", 500, `request body: "array" is not an object`},
		{"wrong type", "POST", "/NetworkDriver.Leave", `{"NetworkID":5}`, 500, `NetworkID: "number" is not a string`},
		{"no id", "POST", "/NetworkDriver.Leave", `{"NetworkID":"n"}`, 500, "EndpointID: missing"},
		{"too large", "POST", "/NetworkDriver.Leave", `{"NetworkID":"` + strings.Repeat("x", 4000) + `"}`, 500, "limit of 512 bytes"},
		{"GET", "GET", "/NetworkDriver.Leave", "", 405, "takes POST, not GET"},
		{"unknown method", "POST", "/NetworkDriver.Fly", "{}", 404, "does not implement /NetworkDriver.Fly"},
		{"unknown interface", "POST", "/VolumeDriver.Create", "{}", 404, "does not implement"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			got := s.do(t, tt.method, tt.path, []byte(tt.body))
			if got.status != tt.status || !strings.Contains(got.err, tt.want) {
				t.Errorf("status %d, error %q; want %d, ...%s...", got.status, got.err, tt.status, tt.want)
			}
			if last := s.stub.take(); last != nil {
				t.Errorf("the driver was called with %+v", last)
			}
		})
	}
}

func TestAccepted(t *testing.T) {
	s := serve(t, plugin.Config{})
	tests := []struct{ name, method, path, body, want string }{
		{"handshake", "POST", "/Plugin.Activate", "", `{"Implements":["NetworkDriver","IpamDriver"]}`},
		{"handshake by GET", "GET", "/Plugin.Activate", "", `{"Implements":["NetworkDriver","IpamDriver"]}`},
		{"unneeded body", "POST", "/NetworkDriver.GetCapabilities", "junk", `{"Scope":"local","ConnectivityScope":"global"}`},
		{"unknown field", "POST", "/NetworkDriver.Leave", `{"NetworkID":"n","EndpointID":"e","New":[1]}`, `{}`},
		{"letter case", "POST", "/NetworkDriver.Leave", `{"networkid":"n","endpointId":"e"}`, `{}`},
		{"pool", "POST", "/IpamDriver.RequestPool", `{"AddressSpace":"l"}`, `{"PoolID":"p","Pool":"10.0.0.0/24"}`},
		{"gateway check", "POST", "/NetworkDriver.GwAllocCheck", `{"Options":{}}`, `{"SkipIPv4":true,"SkipIPv6":false}`},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			got := s.do(t, tt.method, tt.path, []byte(tt.body))
			if got.status != 200 || strings.TrimSpace(string(got.body)) != tt.want {
				t.Errorf("status %d, answer %s; want %s", got.status, got.body, tt.want)
			}
		})
	}
}

func TestOneInterface(t *testing.T) {
	h := plugin.New(plugin.Config{IPAM: addresses{&stub{}}})
	if h == nil {
		t.Fatal("no handler")
	}
}

type hinted struct{ text, hint string }

func (e hinted) Error() string { return e.text }
func (e hinted) Hint() string  { return e.hint }

func TestDriverErrors(t *testing.T) {
	s := serve(t, plugin.Config{})
	tests := []struct {
		name string
		err  error
		want string
	}{
		{"plain", errors.New("no address left"), "no address left"},
		{"hint", hinted{"port 80 is taken", "stop web"}, "port 80 is taken: stop web"},
		{"wrapped hint", fmt.Errorf("publishing: %w", hinted{"port 80 is taken", "stop web"}), "publishing: port 80 is taken: stop web"},
		{"hint already there", hinted{"taken: stop web", "stop web"}, "taken: stop web"},
		{"several lines", errors.Join(errors.New("a"), errors.New("b")), "a; b"},
		{"empty text", errors.New(""), "unknown error (*errors.errorString)"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			s.stub.on = func(context.Context, string, any) error { return tt.err }
			for _, call := range [][2]string{{"/NetworkDriver.Leave", leave}, {"/IpamDriver.ReleasePool", `{"PoolID":"p"}`}} {
				got := s.do(t, "POST", call[0], []byte(call[1]))
				if got.status != 500 || got.err != tt.want {
					t.Errorf("%s: status %d, error %q; want 500, %q", call[0], got.status, got.err, tt.want)
				}
			}
		})
	}
}

// lockedBuffer is a log target for concurrent writers.
type lockedBuffer struct {
	mu sync.Mutex
	b  bytes.Buffer
}

func (l *lockedBuffer) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.Write(p)
}

func (l *lockedBuffer) String() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.String()
}

func TestPanic(t *testing.T) {
	var log lockedBuffer
	s := serve(t, plugin.Config{Logger: slog.New(slog.NewTextHandler(&log, &slog.HandlerOptions{Level: slog.LevelDebug}))})
	s.stub.on = func(context.Context, string, any) error { panic("boom") }
	got := s.do(t, "POST", "/NetworkDriver.Leave", []byte(leave))
	if got.status != 500 || !strings.Contains(got.err, "NetworkDriver.Leave") || !strings.Contains(got.err, "boom") {
		t.Errorf("status %d, error %q", got.status, got.err)
	}
	s.stub.on = func(context.Context, string, any) error { runtime.Goexit(); return nil }
	got = s.do(t, "POST", "/NetworkDriver.Leave", []byte(leave))
	if got.status != 500 || !strings.Contains(got.err, "goroutine ended") {
		t.Errorf("status %d, error %q", got.status, got.err)
	}
	s.stub.on = nil
	if got := s.do(t, "POST", "/NetworkDriver.Leave", []byte(leave)); got.status != 200 {
		t.Errorf("after the panic: status %d, error %q", got.status, got.err)
	}
	for _, want := range []string{"plugin call panicked", "helpers_test.go", "level=DEBUG msg=\"plugin call\" method=NetworkDriver.Leave duration="} {
		// The answer comes before its line in the log.
		for end := time.Now().Add(5 * time.Second); !strings.Contains(log.String(), want); time.Sleep(time.Millisecond) {
			if time.Now().After(end) {
				t.Errorf("the log lacks %q:\n%s", want, log.String())
				break
			}
		}
	}
}

func TestDeadline(t *testing.T) {
	var log lockedBuffer
	s := serve(t, plugin.Config{Timeout: 50 * time.Millisecond, Logger: slog.New(slog.NewTextHandler(&log, nil))})

	s.stub.on = func(ctx context.Context, _ string, _ any) error {
		<-ctx.Done()
		return fmt.Errorf("waiting for the store: %w", ctx.Err())
	}
	if got := s.do(t, "POST", "/NetworkDriver.Leave", []byte(leave)); got.err != "waiting for the store: context deadline exceeded" {
		t.Errorf("a driver that heeds its context: %q", got.err)
	}

	release := make(chan struct{})
	s.stub.on = func(context.Context, string, any) error { <-release; return nil }
	start := time.Now()
	got := s.do(t, "POST", "/NetworkDriver.Leave", []byte(leave))
	if got.status != 500 || !strings.Contains(got.err, "did not finish NetworkDriver.Leave within 50ms") {
		t.Errorf("a driver that does not: status %d, %q", got.status, got.err)
	}
	if took := time.Since(start); took > 2*time.Second {
		t.Errorf("answered after %s", took)
	}
	close(release)
	for deadline := time.Now().Add(5 * time.Second); !strings.Contains(log.String(), "returned after its answer"); time.Sleep(5 * time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatalf("the late return is not logged:\n%s", log.String())
		}
	}
}

// TestSlowBody sends a body that never ends.
func TestSlowBody(t *testing.T) {
	s := serve(t, plugin.Config{Timeout: 50 * time.Millisecond})
	r, w := io.Pipe()
	defer w.Close()
	go func() { _, _ = w.Write([]byte(`{"NetworkID":`)) }()
	req, err := http.NewRequestWithContext(t.Context(), "POST", "http://x/NetworkDriver.Leave", r)
	if err != nil {
		t.Fatal(err)
	}
	resp, err := s.client.Do(req)
	if err != nil {
		return // the connection was closed under the sender: as good
	}
	if got := finish(t, resp); got.status != 500 || !strings.Contains(got.err, "reading the body") {
		t.Errorf("status %d, error %q", got.status, got.err)
	}
}

// TestClientGone checks that a teardown goes on when the engine hangs up.
func TestClientGone(t *testing.T) {
	s := serve(t, plugin.Config{})
	started, finished := make(chan struct{}), make(chan error, 1)
	s.stub.on = func(ctx context.Context, _ string, _ any) error {
		close(started)
		select {
		case <-ctx.Done():
		case <-time.After(200 * time.Millisecond):
		}
		finished <- ctx.Err()
		return nil
	}
	ctx, cancel := context.WithCancel(t.Context())
	req, err := http.NewRequestWithContext(ctx, "POST", "http://x/NetworkDriver.Leave", strings.NewReader(leave))
	if err != nil {
		t.Fatal(err)
	}
	go func() { <-started; cancel() }()
	if resp, err := s.client.Do(req); err == nil {
		_ = resp.Body.Close()
		t.Error("the request was not cancelled")
	}
	if err := <-finished; err != nil {
		t.Errorf("the driver's context ended with the client: %v", err)
	}
}

func TestConcurrency(t *testing.T) {
	var observed atomic.Int64
	s := serve(t, plugin.Config{Observe: func(string, time.Duration, error) { observed.Add(1) }})
	all := recordings(t)
	var wg sync.WaitGroup
	for worker := range 8 {
		wg.Go(func() {
			for i := worker; i < len(all); i += 4 {
				if got := s.do(t, "POST", all[i].Path, all[i].body()); got.status != 200 {
					t.Errorf("%s: %s", all[i].Path, got.body)
				}
			}
		})
	}
	wg.Wait()
	if observed.Load() < int64(len(all)) {
		t.Errorf("observed %d calls of at least %d", observed.Load(), len(all))
	}
}
