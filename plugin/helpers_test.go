package plugin_test

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"io"
	"net"
	"net/http"
	"net/netip"
	"os"
	"path/filepath"
	"sync"
	"testing"
	"time"

	"github.com/weft-net/weft/plugin"
)

// record is one line of a recording.
type record struct {
	Path string
	Req  json.RawMessage
	file string
}

func (r record) body() []byte {
	if string(r.Req) == "null" {
		return nil
	}
	return r.Req
}

// recordings reads every request of every recording.
func recordings(tb testing.TB) []record {
	tb.Helper()
	files, err := filepath.Glob("testdata/protocol/*.jsonl")
	if err != nil || len(files) == 0 {
		tb.Fatalf("no recordings: %v", err)
	}
	var all []record
	for _, name := range files {
		f, err := os.Open(name)
		if err != nil {
			tb.Fatal(err)
		}
		sc := bufio.NewScanner(f)
		sc.Buffer(nil, 1<<20)
		for sc.Scan() {
			r := record{file: filepath.Base(name)}
			if err := json.Unmarshal(sc.Bytes(), &r); err != nil {
				tb.Fatalf("%s: %v", name, err)
			}
			if r.Path != "" {
				all = append(all, r)
			}
		}
		if err := sc.Err(); err != nil {
			tb.Fatal(err)
		}
		if err := f.Close(); err != nil {
			tb.Fatal(err)
		}
	}
	return all
}

// stub is both drivers' common part: it hands each request to on, if set, and
// keeps the last one.
type stub struct {
	mu   sync.Mutex
	last any
	on   func(ctx context.Context, method string, req any) error
}

func (s *stub) got(ctx context.Context, method string, req any) error {
	s.mu.Lock()
	s.last = req
	on := s.on
	s.mu.Unlock()
	if on != nil {
		return on(ctx, method, req)
	}
	return nil
}

func (s *stub) take() any {
	s.mu.Lock()
	defer s.mu.Unlock()
	last := s.last
	s.last = nil
	return last
}

type network struct{ *stub }

func (n network) GetCapabilities(ctx context.Context) (plugin.NetworkCapabilities, error) {
	return plugin.NetworkCapabilities{Scope: plugin.ScopeLocal, ConnectivityScope: plugin.ScopeGlobal}, n.got(ctx, "GetCapabilities", nil)
}
func (n network) AllocateNetwork(ctx context.Context, r plugin.AllocateNetworkRequest) (plugin.AllocateNetworkResponse, error) {
	return plugin.AllocateNetworkResponse{Options: r.Options}, n.got(ctx, "AllocateNetwork", r)
}
func (n network) FreeNetwork(ctx context.Context, r plugin.NetworkRequest) error {
	return n.got(ctx, "FreeNetwork", r)
}
func (n network) GwAllocCheck(ctx context.Context, r plugin.GwAllocCheckRequest) (plugin.GwAllocCheckResponse, error) {
	return plugin.GwAllocCheckResponse{SkipIPv4: true}, n.got(ctx, "GwAllocCheck", r)
}
func (n network) CreateNetwork(ctx context.Context, r plugin.CreateNetworkRequest) error {
	return n.got(ctx, "CreateNetwork", r)
}
func (n network) DeleteNetwork(ctx context.Context, r plugin.NetworkRequest) error {
	return n.got(ctx, "DeleteNetwork", r)
}
func (n network) CreateEndpoint(ctx context.Context, r plugin.CreateEndpointRequest) (plugin.CreateEndpointResponse, error) {
	return plugin.CreateEndpointResponse{}, n.got(ctx, "CreateEndpoint", r)
}
func (n network) DeleteEndpoint(ctx context.Context, r plugin.EndpointRequest) error {
	return n.got(ctx, "DeleteEndpoint", r)
}
func (n network) EndpointOperInfo(ctx context.Context, r plugin.EndpointRequest) (plugin.OperInfoResponse, error) {
	return plugin.OperInfoResponse{}, n.got(ctx, "EndpointOperInfo", r)
}
func (n network) Join(ctx context.Context, r plugin.JoinRequest) (plugin.JoinResponse, error) {
	return plugin.JoinResponse{}, n.got(ctx, "Join", r)
}
func (n network) Leave(ctx context.Context, r plugin.EndpointRequest) error {
	return n.got(ctx, "Leave", r)
}
func (n network) ProgramExternalConnectivity(ctx context.Context, r plugin.ProgramRequest) error {
	return n.got(ctx, "ProgramExternalConnectivity", r)
}
func (n network) RevokeExternalConnectivity(ctx context.Context, r plugin.EndpointRequest) error {
	return n.got(ctx, "RevokeExternalConnectivity", r)
}
func (n network) DiscoverNew(ctx context.Context, r plugin.DiscoverRequest) error {
	return n.got(ctx, "DiscoverNew", r)
}
func (n network) DiscoverDelete(ctx context.Context, r plugin.DiscoverRequest) error {
	return n.got(ctx, "DiscoverDelete", r)
}

type addresses struct{ *stub }

func (a addresses) GetCapabilities(ctx context.Context) (plugin.IPAMCapabilities, error) {
	return plugin.IPAMCapabilities{}, a.got(ctx, "GetCapabilities", nil)
}
func (a addresses) GetDefaultAddressSpaces(ctx context.Context) (plugin.AddressSpaces, error) {
	return plugin.AddressSpaces{LocalDefaultAddressSpace: "l", GlobalDefaultAddressSpace: "g"}, a.got(ctx, "GetDefaultAddressSpaces", nil)
}
func (a addresses) RequestPool(ctx context.Context, r plugin.RequestPoolRequest) (plugin.RequestPoolResponse, error) {
	return plugin.RequestPoolResponse{PoolID: "p", Pool: netip.MustParsePrefix("10.0.0.0/24")}, a.got(ctx, "RequestPool", r)
}
func (a addresses) ReleasePool(ctx context.Context, r plugin.ReleasePoolRequest) error {
	return a.got(ctx, "ReleasePool", r)
}
func (a addresses) RequestAddress(ctx context.Context, r plugin.RequestAddressRequest) (plugin.RequestAddressResponse, error) {
	return plugin.RequestAddressResponse{Address: netip.MustParsePrefix("10.0.0.2/24")}, a.got(ctx, "RequestAddress", r)
}
func (a addresses) ReleaseAddress(ctx context.Context, r plugin.ReleaseAddressRequest) error {
	return a.got(ctx, "ReleaseAddress", r)
}

// server is a Handler on a real unix socket.
type server struct {
	stub   *stub
	client *http.Client
	stop   context.CancelFunc
	served chan error
}

// serve starts a Handler for a stub; it ends with the test.
func serve(tb testing.TB, cfg plugin.Config) *server {
	tb.Helper()
	s := &server{stub: &stub{}, served: make(chan error, 1)}
	cfg.Network, cfg.IPAM = network{s.stub}, addresses{s.stub}
	path := filepath.Join(tb.TempDir(), "w.sock")
	l, err := plugin.Listen(tb.Context(), path)
	if err != nil {
		tb.Fatal(err)
	}
	ctx, stop := context.WithCancel(context.Background())
	s.stop = stop
	go func() { s.served <- plugin.New(cfg).Serve(ctx, l) }()
	transport := &http.Transport{DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
		return (&net.Dialer{}).DialContext(ctx, "unix", path)
	}}
	s.client = &http.Client{Transport: transport, Timeout: 10 * time.Second}
	tb.Cleanup(func() {
		stop()
		transport.CloseIdleConnections()
	})
	return s
}

// reply is what the engine would see.
type reply struct {
	status int
	header http.Header
	body   []byte
	err    string
}

func (s *server) do(tb testing.TB, method, path string, body []byte) reply {
	tb.Helper()
	req, err := http.NewRequestWithContext(context.Background(), method, "http://plugin.moby.localhost"+path, bytes.NewReader(body))
	if err != nil {
		tb.Fatal(err)
	}
	resp, err := s.client.Do(req)
	if err != nil {
		tb.Fatalf("%s %s: %v", method, path, err)
	}
	return finish(tb, resp)
}

func finish(tb testing.TB, resp *http.Response) reply {
	tb.Helper()
	data, err := io.ReadAll(resp.Body)
	if err != nil {
		tb.Fatal(err)
	}
	if err := resp.Body.Close(); err != nil {
		tb.Fatal(err)
	}
	var e plugin.ErrorResponse
	if err := json.Unmarshal(data, &e); err != nil {
		tb.Fatalf("the answer %q is not a JSON object: %v", data, err)
	}
	if got, want := resp.Header.Get("Content-Type"), "application/vnd.docker.plugins.v1.2+json"; got != want {
		tb.Errorf("Content-Type %q, want %q", got, want)
	}
	return reply{resp.StatusCode, resp.Header, data, e.Err}
}
