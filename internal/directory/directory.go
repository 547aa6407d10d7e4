package directory

import (
	"cmp"
	"context"
	"log/slog"
	"maps"
	"slices"
	"sync"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/weft-net/weft/internal/cluster"
	"github.com/weft-net/weft/internal/ownership"
	"github.com/weft-net/weft/internal/store"
)

// changeTime bounds one transaction in the background.
const changeTime = 5 * time.Second

// Cluster is what the directory needs of the membership; see package cluster.
type Cluster interface {
	Me() ownership.Host
	Hosts() []cluster.HostView
	Up() bool
	Ready() error
	Verdict() cluster.Verdict
	Epoch() int
	Get(ctx context.Context, key string) (store.KV, error)
	List(ctx context.Context, prefix string) ([]store.KV, error)
	Change(ctx context.Context, txn store.Txn) (store.Result, error)
	Watch(ctx context.Context, prefix string, fn func(store.Update)) error
}

// Config is what a [Directory] needs to know. Cluster is required.
type Config struct {
	Cluster Cluster
	// OnChange is called after anything changed: the set of networks for an empty
	// UUID, else that network or its endpoints. It must be quick, and must not call back.
	OnChange func(uuid string)
	// Journal remembers where the other hosts of a network were, and the names of their
	// endpoints; nil remembers nothing. The directory is the only user of its buckets
	// directory-peers, directory-endpoints and directory-asof.
	Journal Journal
	Logger  *slog.Logger
	// Now is the clock; nil means time.Now.
	Now func() time.Time
}

// A Directory is this host's view. It is safe for concurrent use.
type Directory struct {
	cfg  Config
	wake chan struct{}

	mu sync.Mutex
	// What the watches say, by key; networks decoded.
	names  map[string]store.KV
	nets   map[string]netRecord // by UUID
	synced bool                 // the networks were seen
	listed bool                 // their names were
	// told and toldNames are the revisions up to which the watches told everything: what this
	// host learns of its own changes may come later, and is old news then.
	told, toldNames int64
	// attended are the networks that this host programs.
	attended map[string]*attended
	// pledged are networks that this host is about to attend.
	pledged map[string]bool
	// called are the names of this host's endpoints, by ID; allCalled says that no others
	// have any.
	called    map[string][]string
	allCalled bool
	hosts     map[ownership.Host]cluster.HostView
	memory    memory
	untold    map[string]untold // by UUID
	due       bool              // a poke is to come
	// unsettled says that there may be something to tell the store; see work.go.
	unsettled bool

	thawed time.Time // of Run alone: from then on a recovery is over
	epoch  int       // of Run alone: that of the last look
}

// netRecord is a network's record and what it says.
type netRecord struct {
	kv  store.KV
	net Network
}

// attended is a network that this host programs.
type attended struct {
	net  Network             // as this host keeps it
	want map[string]Endpoint // this host's, by ID
	seen map[string]store.KV // all, by key
	// doubted are records of other hosts that the store lacks.
	doubted map[string]store.KV
	// listed says that the store was seen since the start, synced that it was this
	// cluster's then.
	listed, synced bool
	stop           context.CancelFunc // of the watch; nil while there is none
}

// New returns a directory that knows no more than the journal remembers; call Run.
func New(cfg Config) *Directory {
	if cfg.Logger == nil {
		cfg.Logger = slog.New(slog.DiscardHandler)
	}
	if cfg.OnChange == nil {
		cfg.OnChange = func(string) {}
	}
	if cfg.Now == nil {
		cfg.Now = time.Now
	}
	d := &Directory{cfg: cfg, wake: make(chan struct{}, 1), names: map[string]store.KV{}, nets: map[string]netRecord{},
		attended: map[string]*attended{}, pledged: map[string]bool{}, hosts: map[ownership.Host]cluster.HostView{}, untold: map[string]untold{}}
	d.recall()
	return d
}

// Poke says that the cluster changed: hosts, their addresses, this host's standing.
func (d *Directory) Poke() {
	select {
	case d.wake <- struct{}{}:
	default:
	}
}

// Run keeps the directory until ctx ends. What this host attends and publishes should
// be complete before: what the store has beyond it is taken for left over.
func (d *Directory) Run(ctx context.Context) error {
	g, ctx := errgroup.WithContext(ctx)
	g.Go(func() error {
		return d.cfg.Cluster.Watch(ctx, prefixNets, d.seeNetworks)
	})
	g.Go(func() error {
		return d.cfg.Cluster.Watch(ctx, prefixNames, d.seeNames)
	})
	g.Go(func() error { return d.work(ctx, g) })
	return g.Wait()
}

// apply takes a watch's news into a map by key.
func apply(into map[string]store.KV, u store.Update) {
	if u.Reset {
		clear(into)
	}
	for _, kv := range u.Puts {
		if kv.Rev > into[kv.Key].Rev { // or this host learned of a later change of its own
			into[kv.Key] = kv
		}
	}
	for _, kv := range u.Deletes {
		if kv.Rev > into[kv.Key].Rev {
			delete(into, kv.Key)
		}
	}
}

func (d *Directory) seeNames(u store.Update) {
	d.mu.Lock()
	apply(d.names, u)
	d.listed = d.listed || u.Reset
	d.toldNames, d.unsettled = u.Rev, true
	d.mu.Unlock()
	d.cfg.OnChange("")
	d.Poke()
}

func (d *Directory) seeNetworks(u store.Update) {
	d.mu.Lock()
	if u.Reset {
		clear(d.nets)
		d.synced = true
	}
	for _, kv := range u.Puts {
		n, err := decode[Network](kv)
		if err != nil {
			d.cfg.Logger.Error("record of a network", "err", err)
			continue
		}
		if kv.Rev > d.nets[n.UUID].kv.Rev {
			d.nets[n.UUID] = netRecord{kv, n}
		}
	}
	for _, kv := range u.Deletes {
		uuid := kv.Key[len(prefixNets):]
		if kv.Rev > d.nets[uuid].kv.Rev {
			delete(d.nets, uuid)
		}
	}
	d.told, d.unsettled = u.Rev, true
	d.mu.Unlock()
	d.cfg.OnChange("")
	d.Poke()
}

// follow begins the watches of networks that are newly attended.
func (d *Directory) follow(ctx context.Context, g *errgroup.Group) {
	d.mu.Lock()
	defer d.mu.Unlock()
	for uuid, a := range d.attended {
		if a.stop != nil {
			continue
		}
		watch, stop := context.WithCancel(ctx)
		a.stop = stop
		g.Go(func() error {
			err := d.cfg.Cluster.Watch(watch, prefixEndpoints+uuid+"/", func(u store.Update) {
				mine := hostKeys(uuid, d.cfg.Cluster.Me())
				d.mu.Lock()
				a.take(u, mine)
				d.memory.behind = true
				d.unsettled = d.unsettled || touches(u, mine) // what the others tell is theirs
				d.mu.Unlock()
				d.cfg.OnChange(uuid)
				d.Poke()
			})
			if watch.Err() != nil {
				return nil //nolint:nilerr // it was stopped
			}
			return err
		})
	}
}

// Networks returns all networks that are known, by name and UUID.
func (d *Directory) Networks() []Network {
	d.mu.Lock()
	defer d.mu.Unlock()
	var out []Network
	for _, r := range d.nets {
		out = append(out, r.net)
	}
	slices.SortFunc(out, func(a, b Network) int { return cmp.Or(cmp.Compare(a.Name, b.Name), cmp.Compare(a.UUID, b.UUID)) })
	return out
}

// Synced reports whether the networks were seen since the start.
func (d *Directory) Synced() bool {
	d.mu.Lock()
	defer d.mu.Unlock()
	return d.synced
}

// Follows reports whether the endpoints of a network were seen since it is attended:
// what [Directory.Endpoints] does not have then is not there.
func (d *Directory) Follows(uuid string) bool {
	d.mu.Lock()
	defer d.mu.Unlock()
	a := d.attended[uuid]
	return a != nil && a.synced
}

// Network returns what is known of a network.
func (d *Directory) Network(uuid string) (Network, bool) {
	d.mu.Lock()
	defer d.mu.Unlock()
	r, ok := d.nets[uuid]
	return r.net, ok
}

// Named returns the network of a name.
func (d *Directory) Named(name string) (Network, bool) {
	d.mu.Lock()
	defer d.mu.Unlock()
	p, err := decode[pointer](d.names[nameKey(name)])
	if err != nil {
		return Network{}, false
	}
	r, ok := d.nets[p.UUID]
	return r.net, ok && !r.net.Removed
}

// Endpoints returns the endpoints of an attended network, this host's included, in
// ascending order of their records. Those of removed hosts are left out.
func (d *Directory) Endpoints(uuid string) []Endpoint {
	d.mu.Lock()
	defer d.mu.Unlock()
	return d.endpoints(d.attended[uuid])
}

// endpoints are those of a network, none of nil. The caller holds mu.
func (d *Directory) endpoints(a *attended) []Endpoint {
	if a == nil {
		return nil
	}
	var out []Endpoint
	for _, kv := range a.all() {
		e, err := parseEndpoint(kv)
		h, known := d.hosts[e.Host]
		if err != nil || known && h.Removed {
			continue
		}
		e.VTEP = h.Address
		out = append(out, e)
	}
	slices.SortFunc(out, func(a, b Endpoint) int { return cmp.Or(cmp.Compare(a.Rev, b.Rev), cmp.Compare(a.ID, b.ID)) })
	return out
}

func sorted[V any](m map[string]V) []string { return slices.Sorted(maps.Keys(m)) }
