package hostport

import (
	"cmp"
	"errors"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"net/netip"
	"slices"
	"sync"
	"syscall"

	"github.com/weft-net/weft/internal/kernel"
)

// ErrTaken means that a port is in use; the error's text says by whom.
var ErrTaken = errors.New("port is already allocated")

// Config is what [New] takes.
type Config struct {
	// Holder finds the socket that holds a port, for errors; nil names nobody.
	Holder func(proto uint8, at netip.AddrPort) (kernel.Holder, error)
	Logger *slog.Logger
}

// A Table is all ports that this process holds. It is safe for concurrent use.
type Table struct {
	cfg Config
	log *slog.Logger

	mu   sync.Mutex
	held map[string][]*reservation // by owner
}

// Want is one address to publish at and where it leads.
type Want struct {
	// Host is the address to bind; an unspecified one stands for every address
	// of its family.
	Host netip.Addr
	// Container is the target. A target of the other family is proxied.
	Container netip.AddrPort
}

// Request asks for one port number at all of the wanted addresses.
type Request struct {
	// Owner is the endpoint's id; [Table.Release] takes it.
	Owner string
	// Proto is 6, 17 or 132.
	Proto uint8
	Want  []Want
	// First to Last is the range to choose from; First 0 means any free port.
	First, Last uint16
}

// Mapping is one reserved port.
type Mapping struct{ Host, Container netip.AddrPort }

type reservation struct {
	owner string
	proto uint8
	Mapping
	close func()
}

// New makes an empty table.
func New(cfg Config) *Table {
	log := cfg.Logger
	if log == nil {
		log = slog.New(slog.DiscardHandler)
	}
	return &Table{cfg: cfg, log: log, held: map[string][]*reservation{}}
}

// Reserve takes the first port of the range that is free at every wanted
// address. IPv6 addresses are left out on a host without IPv6. Nothing is held
// when it fails.
func (t *Table) Reserve(req Request) ([]Mapping, error) {
	t.mu.Lock()
	defer t.mu.Unlock()
	var err error
	for _, port := range candidates(req) {
		var got []*reservation
		if got, err = t.reserve(req, port); err == nil {
			t.held[req.Owner] = append(t.held[req.Owner], got...)
			out := make([]Mapping, len(got))
			for i, r := range got {
				out[i] = r.Mapping
			}
			return out, nil
		}
		if !errors.Is(err, ErrTaken) {
			return nil, err
		}
	}
	if req.Last > req.First {
		return nil, fmt.Errorf("no free port from %d to %d: %w", req.First, req.Last, err)
	}
	return nil, err
}

// candidates are the ports to try. Port 0 lets the kernel choose; protocols
// without a socket of their own get random ones.
func candidates(req Request) []uint16 {
	const attempts = 32
	var out []uint16
	if req.First == 0 {
		for range attempts {
			if req.Proto == protoSCTP {
				out = append(out, uint16(32768+rand.IntN(28232)))
				continue
			}
			out = append(out, 0)
		}
		return out
	}
	for p := int(req.First); p <= int(max(req.First, req.Last)); p++ {
		out = append(out, uint16(p))
	}
	return out
}

func (t *Table) reserve(req Request, port uint16) (_ []*reservation, retErr error) {
	var got []*reservation
	defer func() {
		if retErr != nil {
			for _, r := range got {
				r.close()
			}
		}
	}()
	for _, w := range req.Want {
		at := netip.AddrPortFrom(w.Host, port)
		if owner := t.owner(req.Proto, at); owner != "" {
			return nil, fmt.Errorf("Bind for %s failed: %w: by weft endpoint %s", describe(req.Proto, at), ErrTaken, owner)
		}
		bound, closer, err := open(req.Proto, at, w.Container, t.log)
		if w.Host.Is6() && noIPv6(err) && len(req.Want) > 1 {
			continue
		}
		if err != nil {
			return nil, t.explain(req.Proto, at, err)
		}
		port = bound
		got = append(got, &reservation{owner: req.Owner, proto: req.Proto, close: closer,
			Mapping: Mapping{Host: netip.AddrPortFrom(w.Host, bound), Container: w.Container}})
	}
	if len(got) == 0 {
		return nil, fmt.Errorf("no address of this host can publish port %d", req.First)
	}
	return got, nil
}

// owner is the endpoint that holds a port at an address or at all of them.
func (t *Table) owner(proto uint8, at netip.AddrPort) string {
	for owner, list := range t.held {
		for _, r := range list {
			overlap := r.Host.Addr() == at.Addr() || r.Host.Addr().Is4() == at.Addr().Is4() &&
				(r.Host.Addr().IsUnspecified() || at.Addr().IsUnspecified())
			if r.proto == proto && r.Host.Port() == at.Port() && at.Port() != 0 && overlap {
				return owner
			}
		}
	}
	return ""
}

// explain names who is in the way.
func (t *Table) explain(proto uint8, at netip.AddrPort, err error) error {
	switch {
	case errors.Is(err, syscall.EADDRINUSE):
		who := "by another process"
		if t.cfg.Holder != nil {
			if h, lookup := t.cfg.Holder(proto, at); lookup == nil {
				who = fmt.Sprintf("by a socket at %s of uid %d", h.Local, h.UID)
				if h.Unit != "" {
					who += " (" + h.Unit + ")"
				}
			}
		}
		return fmt.Errorf("Bind for %s failed: %w: %s", describe(proto, at), ErrTaken, who)
	case errors.Is(err, syscall.EADDRNOTAVAIL):
		return fmt.Errorf("Bind for %s failed: %s is not an address of this host: %w", describe(proto, at), at.Addr(), err)
	}
	return fmt.Errorf("Bind for %s failed: %w", describe(proto, at), err)
}

// Release frees all ports of an owner; an unknown owner is success.
func (t *Table) Release(owner string) {
	t.mu.Lock()
	list := t.held[owner]
	delete(t.held, owner)
	t.mu.Unlock()
	for _, r := range list {
		r.close()
	}
}

// Held lists what an owner holds, in the order of the host's ports.
func (t *Table) Held(owner string) []Mapping {
	t.mu.Lock()
	defer t.mu.Unlock()
	var out []Mapping
	for _, r := range t.held[owner] {
		out = append(out, r.Mapping)
	}
	slices.SortFunc(out, func(a, b Mapping) int {
		return cmp.Or(cmp.Compare(a.Host.Port(), b.Host.Port()), a.Host.Addr().Compare(b.Host.Addr()))
	})
	return out
}

// Close frees every port.
func (t *Table) Close() {
	t.mu.Lock()
	held := t.held
	t.held = map[string][]*reservation{}
	t.mu.Unlock()
	for _, list := range held {
		for _, r := range list {
			r.close()
		}
	}
}

func noIPv6(err error) bool {
	return errors.Is(err, syscall.EAFNOSUPPORT) || errors.Is(err, syscall.EADDRNOTAVAIL)
}
