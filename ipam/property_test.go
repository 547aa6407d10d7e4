package ipam_test

import (
	"context"
	"errors"
	"net/netip"
	"path/filepath"
	"slices"
	"strconv"
	"sync"
	"testing"

	"pgregory.net/rapid"

	"github.com/weft-net/weft/ipam"
)

// model is what a host has answered.
type model struct {
	h     *host
	pools []string
	spec  map[string]ipam.PoolRequest
	held  map[string]map[netip.Addr]bool
	// maybe holds addresses of calls whose answer was an error of the journal.
	maybe map[string]map[netip.Addr]bool
}

func (m *model) draw(t *rapid.T) string {
	if len(m.pools) == 0 {
		t.Skip("no pool")
	}
	return rapid.SampledFrom(m.pools).Draw(t, "pool")
}

func (m *model) requestPool(t *rapid.T) {
	req := ipam.PoolRequest{Space: ipam.LocalSpace}
	if rapid.Bool().Draw(t, "explicit") {
		req.Subnet = prefix(rapid.SampledFrom([]string{"10.1.0.0/28", "10.1.0.0/27", "10.2.0.0/29", "10.3.0.0/30", "10.4.0.0/31", "fd00:1::/64", "fd00:2::/125"}).Draw(t, "subnet"))
		if rapid.Bool().Draw(t, "ranged") {
			req.Range = netip.PrefixFrom(req.Subnet.Addr(), min(req.Subnet.Bits()+1, req.Subnet.Addr().BitLen()))
		}
	}
	req.Options = map[string]string{"domain": rapid.SampledFrom([]string{"cluster", "host"}).Draw(t, "domain")}
	p, err := m.h.RequestPool(context.Background(), req)
	overlaps := slices.ContainsFunc(m.pools, func(id string) bool {
		s := m.spec[id]
		return s.Subnet.Overlaps(p.Subnet) && (s.Options["domain"] == req.Options["domain"] || !req.Subnet.IsValid())
	})
	switch {
	case err != nil && !errors.Is(err, ipam.ErrOverlap) && !errors.Is(err, ipam.ErrNoPool):
		t.Fatal(err)
	case err == nil && overlaps:
		t.Fatalf("%s overlaps a pool in use", p.ID)
	case err == nil && slices.Contains(m.pools, p.ID):
		t.Fatalf("PoolID %s came twice", p.ID)
	case err == nil:
		req.Subnet = p.Subnet
		m.pools = append(m.pools, p.ID)
		m.spec[p.ID], m.held[p.ID], m.maybe[p.ID] = req, map[netip.Addr]bool{}, map[netip.Addr]bool{}
	}
}

func (m *model) releasePool(t *rapid.T) {
	id := m.draw(t)
	if err := m.h.ReleasePool(context.Background(), id); err != nil {
		t.Fatal(err)
	}
	m.pools = slices.DeleteFunc(m.pools, func(x string) bool { return x == id })
	delete(m.spec, id)
	delete(m.held, id)
	delete(m.maybe, id)
}

func (m *model) request(t *rapid.T) {
	id := m.draw(t)
	m.requestFrom(t, context.Background(), id)
}

func (m *model) requestFrom(t *rapid.T, ctx context.Context, id string) {
	spec := m.spec[id]
	req := ipam.AddressRequest{PoolID: id, Gateway: rapid.IntRange(0, 5).Draw(t, "gateway") == 0}
	req.Name = rapid.SampledFrom([]string{"", "a", "b", "c"}).Draw(t, "name")
	if rapid.IntRange(0, 3).Draw(t, "explicit") == 0 {
		req.Address = spec.Subnet.Addr()
		for range rapid.IntRange(0, 9).Draw(t, "offset") {
			req.Address = req.Address.Next()
		}
	}
	got, err := m.h.RequestAddress(ctx, req)
	a, held, maybe := got.Addr(), m.held[id], m.maybe[id]
	switch {
	case err == nil && held[a]:
		t.Fatalf("%s of %s has two holders", a, id)
	case err == nil && (!spec.Subnet.Contains(a) || got.Bits() != spec.Subnet.Bits()):
		t.Fatalf("%s is not of %s", got, id)
	case err == nil && req.Address.IsValid() && req.Address != a:
		t.Fatalf("got %s for %s", a, req.Address)
	case err == nil && !req.Address.IsValid() && !req.Gateway && spec.Range.IsValid() && !spec.Range.Contains(a):
		t.Fatalf("%s is not in the range %s", a, spec.Range)
	case err == nil:
		held[a] = true
		delete(maybe, a)
	case errors.Is(err, ipam.ErrExhausted):
		rng := spec.Subnet
		if spec.Range.IsValid() && !req.Gateway {
			rng = spec.Range
		}
		if rng.Bits() < rng.Addr().BitLen()-8 {
			t.Fatalf("%s: %v", id, err)
		}
		for a := rng.Addr(); a.IsValid() && rng.Contains(a); a = a.Next() {
			if !held[a] && !maybe[a] && !isReserved(spec.Subnet, a) {
				t.Fatalf("%v, but %s is free", err, a)
			}
		}
	case errors.Is(err, ipam.ErrInUse):
		if !held[req.Address] && !maybe[req.Address] {
			t.Fatalf("%v, but it is free", err)
		}
	case errors.Is(err, ipam.ErrReserved):
		if !isReserved(spec.Subnet, req.Address) {
			t.Fatal(err)
		}
	case errors.Is(err, context.DeadlineExceeded):
		m.suspectAll(id)
	case !errors.Is(err, ipam.ErrOutside):
		t.Fatal(err)
	}
}

// suspectAll notes that any free address of a pool may have leaked in a crash.
func (m *model) suspectAll(id string) {
	a := m.spec[id].Subnet.Addr()
	for range 70 {
		if a.IsValid() && !m.held[id][a] {
			m.maybe[id][a] = true
		}
		a = a.Next()
	}
}

func (m *model) abandoned(t *rapid.T) {
	id := m.draw(t)
	m.requestFrom(t, late(), id)
}

func (m *model) releaseAbandoned(t *rapid.T) {
	id := m.draw(t)
	a := m.heldAddress(t, id)
	if err := m.h.ReleaseAddress(late(), id, a); err != nil && !errors.Is(err, context.DeadlineExceeded) {
		t.Fatal(err)
	}
	delete(m.held[id], a)
	m.maybe[id][a] = true
}

func (m *model) heldAddress(t *rapid.T, id string) netip.Addr {
	held := slices.SortedFunc(func(yield func(netip.Addr) bool) {
		for a := range m.held[id] {
			if !yield(a) {
				return
			}
		}
	}, netip.Addr.Compare)
	if len(held) == 0 {
		t.Skip("no address")
	}
	return rapid.SampledFrom(held).Draw(t, "address")
}

func (m *model) release(t *rapid.T) {
	id := m.draw(t)
	a := m.heldAddress(t, id)
	for range 2 {
		if err := m.h.ReleaseAddress(context.Background(), id, a); err != nil {
			t.Fatal(err)
		}
	}
	delete(m.held[id], a)
}

// check compares the view with the answers.
func (m *model) check(t *rapid.T) {
	seen := map[string]bool{}
	for _, v := range m.h.View() {
		seen[v.ID] = true
		have := map[netip.Addr]bool{}
		for _, a := range v.Addresses {
			have[a.Address] = true
			if !m.held[v.ID][a.Address] && !m.maybe[v.ID][a.Address] {
				t.Fatalf("%s of %s is in use by nobody", a.Address, v.ID)
			}
		}
		for a := range m.held[v.ID] {
			if !have[a] {
				t.Fatalf("%s of %s was lost", a, v.ID)
			}
		}
	}
	for _, id := range m.pools {
		if !seen[id] {
			t.Fatalf("pool %s was lost", id)
		}
	}
	if len(seen) != len(m.pools) {
		t.Fatalf("pools %v, want %v", seen, m.pools)
	}
	if n := m.h.records(t); n > 0 && len(m.pools) == 0 {
		t.Fatalf("%d records of addresses without a pool", n)
	}
}

func isReserved(p netip.Prefix, a netip.Addr) bool {
	if p.Addr().BitLen()-p.Bits() < 2 {
		return false
	}
	return a == p.Addr() || a.Is4() && !p.Contains(a.Next())
}

func TestAnswersSurviveEverything(t *testing.T) {
	root, runs := t.TempDir(), 0
	rapid.Check(t, func(t *rapid.T) {
		runs++
		m := &model{h: startHost(t, filepath.Join(root, strconv.Itoa(runs))), spec: map[string]ipam.PoolRequest{}, held: map[string]map[netip.Addr]bool{}, maybe: map[string]map[netip.Addr]bool{}}
		defer func() { _ = m.h.journal.Close() }()
		t.Repeat(map[string]func(*rapid.T){
			"":                 m.check,
			"pool":             m.requestPool,
			"release pool":     m.releasePool,
			"address":          m.request,
			"address 2":        m.request,
			"address 3":        m.request,
			"release":          m.release,
			"release 2":        m.release,
			"abandon":          m.abandoned,
			"abandon release":  m.releaseAbandoned,
			"restart":          func(t *rapid.T) { m.h.restart(t) },
			"crash":            func(t *rapid.T) { m.h.crash(t) },
			"crash in a write": func(t *rapid.T) { m.abandoned(t); m.h.crash(t) },
		})
	})
}

func TestConcurrentCalls(t *testing.T) {
	const workers, rounds = 24, 12
	h := newHost(t)
	id := h.subnet(t, "10.1.0.0/27")
	var mu sync.Mutex
	holders := map[netip.Addr]int{}
	var wg sync.WaitGroup
	for w := range workers {
		wg.Go(func() {
			for round := range rounds {
				name := []string{"", "shared", string(rune('a' + w))}[round%3]
				got, err := h.RequestAddress(t.Context(), ipam.AddressRequest{PoolID: id, Name: name})
				if err != nil {
					t.Error(err)
					return
				}
				a := got.Addr()
				mu.Lock()
				if other, taken := holders[a]; taken {
					t.Errorf("%s has two holders, %d and %d", a, other, w)
				}
				holders[a] = w
				mu.Unlock()
				h.View()
				mu.Lock()
				delete(holders, a)
				mu.Unlock()
				wg.Go(func() { _ = h.ReleaseAddress(t.Context(), "local/cluster/10.1.0.0/27/-/t1", a) })
				if err := h.ReleaseAddress(t.Context(), id, a); err != nil {
					t.Error(err)
				}
			}
		})
	}
	wg.Go(func() {
		for range rounds {
			p := h.pool(t, ipam.PoolRequest{})
			if err := h.ReleasePool(t.Context(), p.ID); err != nil {
				t.Error(err)
			}
		}
	})
	wg.Wait()
	h.restart(t)
	if v := h.View(); len(v) != 1 || v[0].Used != 0 || v[0].Free != 30 {
		t.Errorf("left %+v", v)
	}
}

// TestConcurrentReleasesOfOneAddress must not free it twice.
func TestConcurrentReleasesOfOneAddress(t *testing.T) {
	h := newHost(t)
	id := h.subnet(t, "10.1.0.0/29")
	for range 20 {
		for range 6 {
			h.take(t, ipam.AddressRequest{PoolID: id})
		}
		_, err := h.RequestAddress(t.Context(), ipam.AddressRequest{PoolID: id})
		wantRefusal(t, err, ipam.ErrExhausted)
		var wg sync.WaitGroup
		for i := range 24 {
			wg.Go(func() { h.release(t, id, netip.AddrFrom4([4]byte{10, 1, 0, byte(1 + i%6)}).String()) })
		}
		wg.Wait()
	}
}

// TestOneAddressOfMany lets many callers ask for and release the same address.
func TestOneAddressOfMany(t *testing.T) {
	h := newHost(t)
	id := h.subnet(t, "10.1.0.0/24")
	a := netip.MustParseAddr("10.1.0.7")
	var mu sync.Mutex
	held, won := 0, 0
	var wg sync.WaitGroup
	for range 16 {
		wg.Go(func() {
			for range 8 {
				_, err := h.RequestAddress(t.Context(), ipam.AddressRequest{PoolID: id, Address: a})
				if errors.Is(err, ipam.ErrInUse) {
					continue
				}
				if err != nil {
					t.Error(err)
					continue
				}
				mu.Lock()
				held++
				won++
				if held != 1 {
					t.Errorf("%d holders", held)
				}
				held--
				mu.Unlock()
				if err := h.ReleaseAddress(t.Context(), id, a); err != nil {
					t.Error(err)
				}
			}
		})
	}
	wg.Wait()
	if won == 0 {
		t.Error("nobody got the address")
	}
}
