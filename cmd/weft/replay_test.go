package main

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"io"
	"log/slog"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/weft-net/weft/driver"
	"github.com/weft-net/weft/internal/config"
	"github.com/weft-net/weft/internal/journal"
	"github.com/weft-net/weft/internal/testmain"
	"github.com/weft-net/weft/ipam"
	"github.com/weft-net/weft/plugin"
)

// TestMain runs the tests in a network namespace of their own: the house below
// makes real bridges and real rules.
func TestMain(m *testing.M) { os.Exit(testmain.InNetwork(m, nil)) }

// recorded is one line of a recording.
type recorded struct {
	Step string
	Path string
	Req  json.RawMessage
	Resp map[string]any
}

func recording(t *testing.T, path string) []recorded {
	t.Helper()
	raw, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	var out []recorded
	for line := range bytes.Lines(raw) {
		var r recorded
		if err := json.Unmarshal(line, &r); err != nil {
			t.Fatalf("%s: %v", path, err)
		}
		if r.Path != "" {
			out = append(out, r)
		}
	}
	return out
}

// openHouse makes the whole driver of what the journal of an earlier run has, on real kernel
// state and with its files in dir, until the test ends.
func openHouse(t *testing.T, cfg config.Config, dir string, had ...journal.Op) *house {
	t.Helper()
	flags := serveFlags{journal: filepath.Join(dir, "j"), engine: filepath.Join(dir, "engine"), socket: filepath.Join(dir, "s"), bus: "unix:path=" + filepath.Join(dir, "none")}
	j, err := journal.Open(flags.journal)
	if err != nil {
		t.Fatal(err)
	}
	if err := errors.Join(j.Commit(t.Context(), had...), j.Close()); err != nil {
		t.Fatal(err)
	}
	cfg.Scope = "local"
	h, err := open(t.Context(), cfg, flags, slog.New(slog.DiscardHandler))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := errors.Join(h.reset(context.Background()), h.close()); err != nil {
			t.Error(err)
		}
	})
	if err := h.driver.Restore(t.Context()); err != nil {
		t.Fatal(err)
	}
	return h
}

// startHouse serves the whole driver on a socket, on real kernel state.
func startHouse(t *testing.T) *http.Client {
	t.Helper()
	h := openHouse(t, config.Config{}, t.TempDir())
	l, err := plugin.Listen(t.Context(), h.flags.socket)
	if err != nil {
		t.Fatal(err)
	}
	handler := plugin.New(plugin.Config{Network: bound{driver.NewWire(h.driver), h.driver, h.ipam, h.endpointChanged}, IPAM: ipam.NewWire(h.ipam), Logger: h.log})
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error)
	go func() { done <- handler.Serve(ctx, l) }()
	t.Cleanup(func() {
		cancel()
		if err := <-done; err != nil {
			t.Error(err)
		}
	})
	dial := func(ctx context.Context, _, _ string) (net.Conn, error) {
		var d net.Dialer
		return d.DialContext(ctx, "unix", h.flags.socket)
	}
	return &http.Client{Transport: &http.Transport{DialContext: dial}}
}

// expected says whether weft may refuse a recorded request: what another driver
// accepted (its own options, a replay after a restart that weft does not ask
// for, pools that it gave twice) is an error here, and nothing else is.
func expected(message string) bool {
	return slices.ContainsFunc([]string{"ipam-opt", "option", "overlap", "already in use", "unknown pool", "unknown network", "unknown endpoint", "Swarm"},
		func(s string) bool { return strings.Contains(strings.ToLower(message), strings.ToLower(s)) })
}

// TestReplay sends every recorded request of four engines to the real driver
// on the real kernel: each gets a valid answer.
func TestReplay(t *testing.T) {
	files, err := filepath.Glob("../../plugin/testdata/protocol/*.jsonl")
	if err != nil || len(files) < 8 {
		t.Fatalf("recordings: %v, %v", files, err)
	}
	for _, file := range files {
		t.Run(strings.TrimSuffix(filepath.Base(file), ".jsonl"), func(t *testing.T) {
			client := startHouse(t)
			pools := map[string]string{} // recorded id → ours
			refused := 0
			requests := recording(t, file)
			for _, r := range requests {
				status, answer := send(t, client, r, pools)
				if status == http.StatusOK {
					continue
				}
				refused++
				if message, _ := answer["Err"].(string); !expected(message) {
					t.Errorf("%s %s: %d %s", r.Path, r.Req, status, message)
				}
			}
			t.Logf("%d requests, %d refused", len(requests), refused)
			// The pools and the aux address that the recorder wanted replayed after
			// the engine's restart; Swarm's recordings have no such thing.
			want := 0
			if strings.HasPrefix(filepath.Base(file), "local-") {
				want = 3
			}
			if refused != want {
				t.Errorf("%d of %d requests were refused instead of %d", refused, len(requests), want)
			}
		})
	}
}

// translate puts our names in place of those that only the recording driver
// has: pool ids, address spaces, its own options.
func translate(req map[string]any, pools map[string]string) {
	if id, ok := req["PoolID"].(string); ok && pools[id] != "" {
		req["PoolID"] = pools[id]
	}
	if space, ok := req["AddressSpace"].(string); ok {
		req["AddressSpace"] = map[string]string{"wlocal": ipam.LocalSpace, "wglobal": ipam.GlobalSpace}[space]
	}
	if options, ok := req["Options"].(map[string]any); ok {
		delete(options, "k")
		if generic, ok := options["com.docker.network.generic"].(map[string]any); ok {
			delete(generic, "mode") // overlay in some recordings: the calls are the same
			delete(generic, "weft.vni")
		}
	}
}

// send replays one request with our pool ids in place of the recorded ones.
func send(t *testing.T, client *http.Client, r recorded, pools map[string]string) (int, map[string]any) {
	t.Helper()
	body := r.Req
	if bytes.Equal(body, []byte("null")) {
		body = nil
	}
	var req map[string]any
	if body != nil {
		if err := json.Unmarshal(body, &req); err != nil {
			t.Fatal(err)
		}
		translate(req, pools)
		var err error
		if body, err = json.Marshal(req); err != nil {
			t.Fatal(err)
		}
	}
	resp, err := client.Post("http://plugin"+r.Path, "application/json", bytes.NewReader(body))
	if err != nil {
		t.Fatalf("%s: %v", r.Path, err)
	}
	defer resp.Body.Close()
	raw, err := io.ReadAll(resp.Body)
	if err != nil {
		t.Fatal(err)
	}
	var answer map[string]any
	if err := json.Unmarshal(raw, &answer); err != nil {
		t.Errorf("%s: the answer is no JSON object: %s", r.Path, raw)
	}
	if id, ok := r.Resp["PoolID"].(string); ok && resp.StatusCode == http.StatusOK {
		pools[id], _ = answer["PoolID"].(string)
	}
	return resp.StatusCode, answer
}
