package driver

import (
	"cmp"
	"context"
	"fmt"
	"log/slog"
	"maps"
	"slices"
	"sync"
	"time"

	"github.com/weft-net/weft/internal/firewall"
	"github.com/weft-net/weft/internal/journal"
	"github.com/weft-net/weft/internal/kernel"
)

// Buckets of the journal.
const (
	bucketNetworks  = "networks"
	bucketEndpoints = "endpoints"
)

// Kernel is what the driver itself asks of the kernel; the kinds have their own.
type Kernel interface {
	Links() ([]kernel.Link, error)
	Addresses() ([]kernel.Address, error)
	Routes() ([]kernel.Route, error)
	Detach(name string) error
	DeleteDoomed() error
	DeleteLink(name string) error
	SandboxExists(path string) bool
	TryChild(c kernel.Child) error
	Sysctl(key string) (string, error)
	EnsureSysctl(s kernel.Sysctl) (changed bool, err error)
}

// Firewall is what reconcile asks of the firewall.
type Firewall interface {
	SetUplinks(ctx context.Context, names []string) error
	// Repair takes facts over, whatever was known before, and mends the kernel.
	Repair(ctx context.Context, facts firewall.Facts) (repaired []string, err error)
	// Mend makes the kernel be what the firewall was told last.
	Mend(ctx context.Context) (repaired []string, err error)
	// DropByDefault keeps strangers' packets from being forwarded, where the engine
	// filters; see firewall.NFT.
	DropByDefault(ctx context.Context, v6 bool) (drops bool, err error)
}

// Config is what [New] takes. Journal, Kernel, Firewall and Kinds are required.
type Config struct {
	Journal  *journal.Journal
	Kernel   Kernel
	Firewall Firewall
	Kinds    map[string]Kind
	// DefaultMode is the kind of a network without -o mode; "bridge" if empty.
	DefaultMode string
	// Scope is what GetCapabilities reports: "local" (default) or "global".
	Scope string
	// Holders says which endpoints and networks the engine still knows; nil
	// means that nobody can say, and nothing is collected.
	Holders func(ctx context.Context) (Holders, error)
	Logger  *slog.Logger
	// EngineUp reports whether the engine answers, and so has done what it does at its
	// start; nil means that nobody can say, and reconcile turns no forwarding on before the
	// engine has called.
	EngineUp func() bool
	// Blind reports whether the journal may not be the one that this host's links were
	// made from: reconcile then leaves links alone that belong to nothing. nil means
	// never.
	Blind func() bool
	// OnLook is called with what the kernel has, whenever reconcile has looked. It must be
	// quick; nil means that nobody wants to know.
	OnLook func(Actual)
	// Now is the clock; time.Now if nil.
	Now func() time.Time
}

// A Driver is the state of this host's networks. It is safe for concurrent use.
type Driver struct {
	cfg     Config
	log     *slog.Logger
	now     func() time.Time
	started time.Time

	mu        sync.Mutex // guards the maps, held for no I/O
	networks  map[string]Network
	endpoints map[string]Endpoint
	creating  *Network       // the one in creation, when its place is found
	joining   map[string]int // by network: how many of its endpoints are being joined
	conflicts map[Conflict]bool
	absent    map[string]Absence  // by UUID: shared networks that a user removed here
	unmarked  map[string]int      // by UUID: removals of it are weft's own
	listed    map[string]string   // by id: see NoteListed
	troubles  map[string][]string // by id: see Troubles

	forwarding forwarding

	wake  chan struct{} // for Run: the conflicts changed
	locks keyed         // one lock a network, one an endpoint
	leaks leakBook
	stats Stats
}

// Stats counts what reconcile did since the start.
type Stats struct {
	// Runs is the number of reconciliations, Repairs the differences mended.
	Runs, Repairs uint64
	// Collected is the number of leaked endpoints and networks taken away.
	Collected uint64
	// LastError is the last reconciliation's error, or "".
	LastError string
}

// New makes a driver with an empty state; call [Driver.Restore] next.
func New(cfg Config) (*Driver, error) {
	if cfg.DefaultMode == "" {
		cfg.DefaultMode = "bridge"
	}
	if cfg.Scope == "" {
		cfg.Scope = "local"
	}
	if cfg.Logger == nil {
		cfg.Logger = slog.New(slog.DiscardHandler)
	}
	if cfg.Now == nil {
		cfg.Now = time.Now
	}
	if cfg.Kinds[cfg.DefaultMode] == nil {
		return nil, fmt.Errorf("driver: no kind for the default mode %q", cfg.DefaultMode)
	}
	return &Driver{
		cfg: cfg, log: cfg.Logger, now: cfg.Now, started: cfg.Now(),
		networks: map[string]Network{}, endpoints: map[string]Endpoint{}, joining: map[string]int{}, absent: map[string]Absence{}, unmarked: map[string]int{}, listed: map[string]string{},
		wake: make(chan struct{}, 1), leaks: leakBook{missing: map[string]time.Time{}},
	}, nil
}

// Restore takes up what the journal says: records, reserved host ports and
// firewall rules. It must end before the first request is answered. It touches
// no link; [Driver.Reconcile] does. A damaged journal is an error: guessing would
// break promises. Ports that could not be reserved again are only logged.
func (d *Driver) Restore(ctx context.Context) error {
	if err := d.Load(); err != nil {
		return err
	}
	for _, ep := range d.Endpoints("") {
		n, kind, err := d.network(ep.Network)
		if err == nil {
			err = kind.Restore(ctx, n, ep)
		}
		if err != nil {
			d.log.Error("restore endpoint", "endpoint", short(ep.ID), "err", err)
		}
	}
	if err := d.foreseeForwarding(); err != nil {
		d.log.Error("router advertisements would not be heeded with forwarding", "err", err)
	}
	if _, err := d.cfg.Firewall.Repair(ctx, d.FirewallFacts()); err != nil {
		d.log.Error("restore firewall; reconcile tries again", "err", err)
	}
	return nil
}

// Load reads the journal's records and does nothing else.
func (d *Driver) Load() error {
	networks, err := journal.Load[Network](d.cfg.Journal, bucketNetworks)
	if err != nil {
		return err
	}
	endpoints, err := journal.Load[Endpoint](d.cfg.Journal, bucketEndpoints)
	if err != nil {
		return err
	}
	d.mu.Lock()
	d.networks, d.endpoints = networks, endpoints
	d.mu.Unlock()
	return d.loadShared()
}

// network finds a network and its kind.
func (d *Driver) network(id string) (Network, Kind, error) {
	d.mu.Lock()
	n, ok := d.networks[id]
	d.mu.Unlock()
	if !ok {
		return Network{}, nil, unknownNetwork(id)
	}
	kind := d.cfg.Kinds[n.Mode]
	if kind == nil {
		return n, nil, fmt.Errorf("network %s has mode %q, which this weft does not know", short(id), n.Mode)
	}
	return n, kind, nil
}

// endpoint finds an endpoint of a network.
func (d *Driver) endpoint(network, id string) (Endpoint, error) {
	d.mu.Lock()
	defer d.mu.Unlock()
	ep, ok := d.endpoints[id]
	if !ok || ep.Network != network {
		return Endpoint{}, unknownEndpoint(id)
	}
	ep.Off = d.isOff(ep)
	return ep, nil
}

// Network returns one network; ok is false if there is none of that id.
func (d *Driver) Network(id string) (n Network, ok bool) {
	d.mu.Lock()
	defer d.mu.Unlock()
	n, ok = d.networks[id]
	return n, ok
}

// Networks lists what the journal holds, oldest first.
func (d *Driver) Networks() []Network {
	d.mu.Lock()
	defer d.mu.Unlock()
	return slices.SortedFunc(maps.Values(d.networks), func(a, b Network) int {
		return cmp.Or(a.Created.Compare(b.Created), cmp.Compare(a.ID, b.ID))
	})
}

// Endpoints lists the endpoints of a network, or of all when network is empty,
// oldest first.
func (d *Driver) Endpoints(network string) []Endpoint {
	d.mu.Lock()
	defer d.mu.Unlock()
	var out []Endpoint
	for _, ep := range d.endpoints {
		if network == "" || ep.Network == network {
			ep.Off = d.isOff(ep)
			out = append(out, ep)
		}
	}
	slices.SortFunc(out, func(a, b Endpoint) int {
		return cmp.Or(a.Created.Compare(b.Created), cmp.Compare(a.ID, b.ID))
	})
	return out
}

// Stats returns the counters.
func (d *Driver) Stats() Stats {
	d.mu.Lock()
	defer d.mu.Unlock()
	return d.stats
}

// saveNetwork makes a network durable, then visible. It is not absent any more.
func (d *Driver) saveNetwork(ctx context.Context, n Network) error {
	ops := []journal.Op{journal.Put(bucketNetworks, n.ID, n)}
	if n.Shared != nil {
		ops = append(ops, journal.Delete(bucketAbsent, n.Shared.UUID))
	}
	if err := d.cfg.Journal.Commit(ctx, ops...); err != nil {
		return err
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	d.networks[n.ID] = n
	if n.Shared != nil {
		delete(d.absent, n.Shared.UUID)
	}
	return nil
}

// saveEndpoint makes an endpoint durable, then visible.
func (d *Driver) saveEndpoint(ctx context.Context, ep Endpoint) error {
	if err := d.cfg.Journal.Commit(ctx, journal.Put(bucketEndpoints, ep.ID, ep)); err != nil {
		return err
	}
	d.mu.Lock()
	d.endpoints[ep.ID] = ep
	late := ep.Off != d.isOff(ep)
	d.mu.Unlock()
	if late { // its link was made by what was known before
		d.poke()
	}
	return nil
}

// networkKey and endpointKey keep the names of locks apart, whatever ids come.
func networkKey(id string) string { return "network/" + id }

func endpointKey(id string) string { return "endpoint/" + id }

// keyed is a lock per name. The zero value is ready.
type keyed struct {
	mu    sync.Mutex
	locks map[string]*keyedLock
}

type keyedLock struct {
	sync.RWMutex
	users int
}

func (k *keyed) take(name string) *keyedLock {
	k.mu.Lock()
	defer k.mu.Unlock()
	if k.locks == nil {
		k.locks = map[string]*keyedLock{}
	}
	l := k.locks[name]
	if l == nil {
		l = &keyedLock{}
		k.locks[name] = l
	}
	l.users++
	return l
}

func (k *keyed) drop(name string, l *keyedLock) {
	k.mu.Lock()
	defer k.mu.Unlock()
	if l.users--; l.users == 0 {
		delete(k.locks, name)
	}
}

// Lock holds the name alone; call the result to release it.
func (k *keyed) Lock(name string) (unlock func()) {
	l := k.take(name)
	l.Lock()
	return func() { l.Unlock(); k.drop(name, l) }
}

// RLock holds the name together with other readers.
func (k *keyed) RLock(name string) (unlock func()) {
	l := k.take(name)
	l.RLock()
	return func() { l.RUnlock(); k.drop(name, l) }
}
