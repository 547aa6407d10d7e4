package ipam_test

import (
	"bufio"
	"encoding/json"
	"errors"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/weft-net/weft/ipam"
	"github.com/weft-net/weft/plugin"
)

// replay sends one recording to an IPAM. The recorded driver answered with its
// own PoolIDs and addresses, which are translated.
type replay struct {
	t     *testing.T
	w     *ipam.Wire
	pools map[string]map[string]string // by recorded PoolID and space
	addrs map[string]netip.Addr        // by space and recorded address
	again bool                         // the recorded engine repeats its requests
	seen  map[string]int
}

type recorded struct {
	Step, Path string
	Req, Resp  json.RawMessage
}

// TestReplay sends every recorded IpamDriver request of every engine, in order.
func TestReplay(t *testing.T) {
	files, err := filepath.Glob("../plugin/testdata/protocol/*.jsonl")
	if err != nil || len(files) == 0 {
		t.Fatalf("no recordings: %v", err)
	}
	seen := map[string]int{}
	for _, name := range files {
		t.Run(filepath.Base(name), func(t *testing.T) {
			h := newHost(t)
			r := &replay{t: t, w: ipam.NewWire(h.IPAM), pools: map[string]map[string]string{}, addrs: map[string]netip.Addr{}, seen: seen}
			f, err := os.Open(name)
			if err != nil {
				t.Fatal(err)
			}
			defer func() { _ = f.Close() }()
			for sc := bufio.NewScanner(f); sc.Scan(); {
				var rec recorded
				if err := json.Unmarshal(sc.Bytes(), &rec); err != nil {
					t.Fatal(err)
				}
				r.play(rec)
			}
		})
	}
	for _, method := range []string{"GetCapabilities", "GetDefaultAddressSpaces", "RequestPool", "RequestAddress", "ReleaseAddress", "ReleasePool"} {
		if seen[method] == 0 {
			t.Errorf("no recording holds %s", method)
		}
	}
}

func (r *replay) play(rec recorded) {
	r.t.Helper()
	if rec.Step != "" {
		// The recorded driver asked for a replay at the engine's start; this one
		// does not, so what follows must be refused as it would be for a user.
		r.again = rec.Step == "dockerd restart"
		return
	}
	method, ok := strings.CutPrefix(rec.Path, "/IpamDriver.")
	if !ok {
		return
	}
	r.seen[method]++
	switch method {
	case "GetCapabilities":
		if c, err := r.w.GetCapabilities(r.t.Context()); err != nil || c != (plugin.IPAMCapabilities{}) {
			r.t.Errorf("capabilities %+v, %v", c, err)
		}
	case "GetDefaultAddressSpaces":
		if s, err := r.w.GetDefaultAddressSpaces(r.t.Context()); err != nil || s.LocalDefaultAddressSpace == s.GlobalDefaultAddressSpace {
			r.t.Errorf("spaces %+v, %v", s, err)
		}
	case "RequestPool":
		r.requestPool(rec)
	case "RequestAddress":
		r.requestAddress(rec)
	case "ReleaseAddress":
		req := decode[plugin.ReleaseAddressRequest](r.t, rec.Req)
		r.both(req.PoolID, func(space, id string) error {
			req := plugin.ReleaseAddressRequest{PoolID: id, Address: r.translate(space, req.Address)}
			return r.w.ReleaseAddress(r.t.Context(), req)
		})
	case "ReleasePool":
		req := decode[plugin.ReleasePoolRequest](r.t, rec.Req)
		r.both(req.PoolID, func(_, id string) error { return r.w.ReleasePool(r.t.Context(), plugin.ReleasePoolRequest{PoolID: id}) })
	}
}

func (r *replay) requestPool(rec recorded) {
	r.t.Helper()
	req, want := decode[plugin.RequestPoolRequest](r.t, rec.Req), decode[plugin.RequestPoolResponse](r.t, rec.Resp)
	if strings.Contains(string(rec.Req), `"k":"v"`) {
		_, err := r.w.RequestPool(r.t.Context(), plugin.RequestPoolRequest{AddressSpace: ipam.LocalSpace, Pool: req.Pool, Options: req.Options})
		wantRefusal(r.t, err, ipam.ErrOption, `"k"`)
		req.Options = nil
	}
	req.AddressSpace = map[string]string{"wlocal": ipam.LocalSpace, "wglobal": ipam.GlobalSpace}[req.AddressSpace]
	if req.AddressSpace == ipam.LocalSpace && len(r.pools[want.PoolID]) > 0 && !req.Pool.IsValid() {
		r.t.Fatal("unexpected dynamic pool")
	}
	if req.AddressSpace == ipam.LocalSpace && r.pools[want.PoolID][ipam.GlobalSpace] != "" {
		// The node asks for the pool that the leader chose, which was ours.
		req.Pool = netip.MustParsePrefix(strings.Join(strings.Split(r.pools[want.PoolID][ipam.GlobalSpace], "/")[2:4], "/"))
	}
	got, err := r.w.RequestPool(r.t.Context(), req)
	if r.again {
		wantRefusal(r.t, err, ipam.ErrOverlap, "Pool overlaps with other one on this address space")
		return
	}
	if err != nil || got.PoolID == "" || !got.Pool.IsValid() || req.Pool.IsValid() && got.Pool != req.Pool {
		r.t.Fatalf("RequestPool(%s) = %+v, %v", rec.Req, got, err)
	}
	if r.pools[want.PoolID] == nil {
		r.pools[want.PoolID] = map[string]string{}
	}
	r.pools[want.PoolID][req.AddressSpace] = got.PoolID
}

func (r *replay) requestAddress(rec recorded) {
	r.t.Helper()
	req, want := decode[plugin.RequestAddressRequest](r.t, rec.Req), decode[plugin.RequestAddressResponse](r.t, rec.Resp)
	space := ipam.LocalSpace
	if req.Serial() {
		space = ipam.GlobalSpace
	}
	req.PoolID = r.pools[req.PoolID][space]
	if req.Address.IsValid() {
		req.Address = r.translate(space, req.Address)
	}
	got, err := r.w.RequestAddress(r.t.Context(), req)
	if r.again {
		if !errors.Is(err, ipam.ErrInUse) {
			r.t.Fatalf("repeated RequestAddress(%s) = %v, %v", rec.Req, got, err)
		}
		return
	}
	if err != nil || !got.Address.IsValid() || req.Address.IsValid() && got.Address.Addr() != req.Address || got.Address.Bits() != want.Address.Bits() {
		r.t.Fatalf("RequestAddress(%s) = %+v, %v", rec.Req, got, err)
	}
	r.addrs[space+want.Address.Addr().String()] = got.Address.Addr()
}

// translate returns the address that we gave instead of the recorded one; a node
// gets what the leader chose.
func (r *replay) translate(space string, a netip.Addr) netip.Addr {
	for _, s := range []string{space, ipam.GlobalSpace} {
		if ours, ok := r.addrs[s+a.String()]; ok {
			return ours
		}
	}
	return a
}

// both calls fn for our pools of a recorded PoolID: the recorded driver did not
// tell spaces apart, and a release that is not meant is harmless.
func (r *replay) both(id string, fn func(space, id string) error) {
	r.t.Helper()
	if len(r.pools[id]) == 0 {
		r.t.Fatalf("release in %s, which was never requested", id)
	}
	for space, ours := range r.pools[id] {
		if err := fn(space, ours); err != nil {
			r.t.Errorf("release in %s: %v", ours, err)
		}
	}
}

func decode[T any](t *testing.T, b []byte) T {
	t.Helper()
	var v T
	if err := json.Unmarshal(b, &v); err != nil {
		t.Fatalf("%s: %v", b, err)
	}
	return v
}
