package namesync

import (
	"context"
	"fmt"
	"log/slog"
	"slices"
	"sync"
	"time"

	"github.com/weft-net/weft/internal/directory"
	"github.com/weft-net/weft/internal/names"
	"github.com/weft-net/weft/internal/ownership"
)

// Directory is what the hosts know in common; see package directory.
type Directory interface {
	LastKnown(uuid string) []directory.Endpoint
	SetNames(names map[string][]string, all bool)
}

// Host is what the agent asks of this host's driver.
type Host interface {
	// Shared are the networks of the cluster, and who is on them.
	Shared() []Network
}

// Book is what the names are written into; *names.Book is one.
type Book interface {
	SetNetwork(n names.Network)
	RemoveNetwork(id string)
	SetEndpoints(network string, list ...names.Endpoint) bool
	RemoveEndpoints(network string, list ...names.Endpoint) bool
}

// Service answers names inside sandboxes; *names.Service is one.
type Service interface {
	Attend(c names.Container)
	Attended() []names.Container
	Forsake(path string)
}

// Fronts answer names at addresses of the host; *names.Fronts is one.
type Fronts interface{ Set(list []names.Front) }

// Config is what [New] takes. All but Service, Fronts and Logger are required.
type Config struct {
	Engine    Engine
	Directory Directory
	Host      Host
	// Me is this host's id in the cluster.
	Me   func() ownership.Host
	Book Book
	// Service and Fronts are nil where nothing is answered in this way.
	Service Service
	Fronts  Fronts
	Logger  *slog.Logger
}

// A comparison costs more the more there is. It takes at most one in restShare of the
// time, unless that were a pause of more than restMost.
const (
	restShare = 5
	restMost  = 100 * time.Millisecond
)

// An Agent keeps names where they belong. Its methods wait for nothing, and are safe for
// concurrent use; the work is done by Run.
type Agent struct {
	cfg    Config
	wake   chan struct{}
	roster *roster

	mu       sync.Mutex
	stale    map[string]bool // networks whose endpoints are to be read again, by UUID
	troubles []string

	// Of Run alone: what is in force.
	remote map[string][]directory.Endpoint // by UUID
	book   map[string]names.Network        // by id
}

// New makes an agent that knows nothing; call [Agent.Run].
func New(cfg Config) *Agent {
	if cfg.Logger == nil {
		cfg.Logger = slog.New(slog.DiscardHandler)
	}
	a := &Agent{cfg: cfg, wake: make(chan struct{}, 1), stale: map[string]bool{},
		remote: map[string][]directory.Endpoint{}, book: map[string]names.Network{}}
	a.roster = newRoster(cfg.Engine, a.Wake)
	return a
}

// Wake says that an endpoint came or went.
func (a *Agent) Wake() {
	select {
	case a.wake <- struct{}{}:
	default:
	}
}

// Container says that something happened to a container, or, with an empty id, may have
// happened to any.
func (a *Agent) Container(id string) {
	a.roster.ask(id)
	a.Wake()
}

// Network says that something changed in the directory: on the network of this UUID, or,
// with an empty one, about the networks themselves.
func (a *Agent) Network(uuid string) {
	a.mu.Lock()
	a.stale[uuid] = true
	a.mu.Unlock()
	a.Wake()
}

// Problem is why the names of this host's containers are not known, nil if they are.
func (a *Agent) Problem() error {
	if err := a.roster.problem(); err != nil {
		return fmt.Errorf("the names of this host's containers are not known to other hosts: %w", err)
	}
	return nil
}

// Troubles say which names are left out, one sentence for each endpoint that has such.
func (a *Agent) Troubles() []string {
	a.mu.Lock()
	defer a.mu.Unlock()
	return slices.Clone(a.troubles)
}

// setTroubles takes over what is wrong now; the log gets what is new of it.
func (a *Agent) setTroubles(texts []string) {
	a.mu.Lock()
	was := a.troubles
	a.troubles = texts
	a.mu.Unlock()
	for _, text := range texts {
		if !slices.Contains(was, text) {
			a.cfg.Logger.Warn(text)
		}
	}
}

// Run looks and compares until ctx ends.
func (a *Agent) Run(ctx context.Context) error {
	defer a.roster.work.Wait()
	timer := time.NewTimer(listEvery)
	defer timer.Stop()
	for {
		began := time.Now()
		pause := a.roster.step(ctx, began)
		a.compare()
		rest := min(time.Since(began)*(restShare-1), restMost)
		select {
		case <-ctx.Done():
			return nil
		case <-time.After(rest):
		}
		timer.Reset(max(pause-rest, 0))
		select {
		case <-ctx.Done():
			return nil
		case <-a.wake:
		case <-timer.C:
		}
	}
}

// compare puts in force what is new of the plan.
func (a *Agent) compare() {
	f := facts{host: string(a.cfg.Me()), shared: a.cfg.Host.Shared()}
	var whole bool
	f.containers, f.networks, whole = a.roster.known()
	f.remote = a.read(f.shared)
	p := f.plan()
	a.cfg.Directory.SetNames(p.called, whole)
	a.setTroubles(p.troubles)
	book := make(map[string]names.Network, len(p.book))
	for _, n := range p.book {
		a.write(n)
		book[n.ID] = n
	}
	for id := range a.book {
		if _, ok := book[id]; !ok {
			a.cfg.Book.RemoveNetwork(id)
		}
	}
	a.book = book
	if a.cfg.Service != nil {
		a.attend(p.attend)
	}
	if a.cfg.Fronts != nil {
		a.cfg.Fronts.Set(p.fronts)
	}
}

// write puts a network into the book. Of one that is there it writes what changed, unless that
// is most of it: one container that starts among thousands is no reason to make all of their
// records anew. What is new comes first, so that a name that goes from one endpoint to another
// is known all the time.
func (a *Agent) write(n names.Network) {
	was, known := a.book[n.ID]
	if !known || was.Name != n.Name || was.Engine != n.Engine {
		a.cfg.Book.SetNetwork(n)
		return
	}
	set, gone := changed(was.Endpoints, n.Endpoints)
	if len(set)+len(gone) > len(n.Endpoints)/2 {
		a.cfg.Book.SetNetwork(n)
		return
	}
	if len(set) > 0 {
		a.cfg.Book.SetEndpoints(n.ID, set...)
	}
	if len(gone) > 0 {
		a.cfg.Book.RemoveEndpoints(n.ID, gone...)
	}
}

// attend sends the resolver to the sandboxes, and away from all others.
func (a *Agent) attend(list []names.Container) {
	for _, c := range list {
		a.cfg.Service.Attend(c)
	}
	for _, c := range a.cfg.Service.Attended() {
		if !slices.ContainsFunc(list, func(want names.Container) bool { return want.Sandbox == c.Sandbox }) {
			a.cfg.Service.Forsake(c.Sandbox)
		}
	}
}

// read returns the endpoints of other hosts, by network. It asks the directory only for
// networks in which something changed.
func (a *Agent) read(shared []Network) map[string][]directory.Endpoint {
	a.mu.Lock()
	stale := a.stale
	a.stale = map[string]bool{}
	a.mu.Unlock()
	out := make(map[string][]directory.Endpoint, len(shared))
	me := a.cfg.Me()
	for _, n := range shared {
		list, known := a.remote[n.UUID]
		if !known || stale[n.UUID] {
			list = slices.DeleteFunc(a.cfg.Directory.LastKnown(n.UUID), func(e directory.Endpoint) bool { return e.Own || e.Host == me })
		}
		out[n.UUID] = list
	}
	a.remote = out
	return out
}
