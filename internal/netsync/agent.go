package netsync

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/weft-net/weft/internal/directory"
	"github.com/weft-net/weft/internal/engine"
)

// Engine is what the agent asks of the Docker API; see package engine.
type Engine interface {
	Networks(ctx context.Context) ([]engine.Network, error)
	Connected(ctx context.Context, network string) ([]string, error)
	CreateNetwork(ctx context.Context, n engine.Network) (id string, err error)
	RemoveNetwork(ctx context.Context, id string) error
	Disconnect(ctx context.Context, network, container string) error
}

// Directory is what the hosts know in common; see package directory.
type Directory interface {
	Synced() bool
	Networks() []directory.Network
	Claim(ctx context.Context, uuid, name string, spec []byte) (directory.Network, error)
	Join(ctx context.Context, uuid string) (directory.Network, error)
	Forsake(uuid string)
}

// Host is what the agent asks of this host's driver.
type Host interface {
	// Shared are the networks that belong to the cluster; Lost is the agent's.
	Shared() []Local
	// Absent are the UUIDs of networks that a user removed here. What Shared lacked
	// before the call for that reason is among them.
	Absent() []string
	ForgetAbsent(ctx context.Context, uuids ...string) error
	// Unmarked lets removals of a network leave no such mark until done is called.
	Unmarked(uuid string) (done func())
	// Rebind makes a network take over the identity of another one.
	Rebind(ctx context.Context, id string, to directory.Network) error
	// NoteListed remembers Listed of a network.
	NoteListed(ctx context.Context, id, state string) error
	// Drop takes away a network that the engine does not know any more; with a mark of
	// absence if a user removed it.
	Drop(ctx context.Context, id string, byUser bool) error
}

// Config is what [New] takes. All but Logger and Now are required.
type Config struct {
	Engine    Engine
	Directory Directory
	Host      Host
	// Driver asks for the name by which the engine of this host knows weft.
	Driver func(ctx context.Context) (string, error)
	// Ready is nil while networks may be made and removed, else it says why not.
	Ready  func() error
	Logger *slog.Logger
	Now    func() time.Time
}

// Bounds of time.
const (
	// every is the pause between comparisons that nothing woke.
	every = 30 * time.Second
	// storeTime and engineTime bound one change.
	storeTime, engineTime = 5 * time.Second, 30 * time.Second
	// firstRetry doubles after each failure, up to lastRetry.
	firstRetry, lastRetry = 500 * time.Millisecond, time.Minute
	// lostAfter is for how long the engine's answers lack a network that it lost. One
	// that is being made is missing for a moment only.
	lostAfter = 15 * time.Second
	// forgetAfter is for how long the store lacks a network before nobody remembers that
	// a user removed it here: a store that was wiped is told again by its hosts.
	forgetAfter = 5 * time.Minute
	// tellAfter is how long nothing can be done before the log says so.
	tellAfter = 10 * time.Second
	// passes bounds how often a comparison follows its own actions at once.
	passes = 8
)

// engineOwn is a network that each engine makes when its state is empty, and keeps as long
// as its state lasts: its id tells states apart.
const engineOwn = "none"

// An Agent keeps the networks of one host in step with the cluster. It is safe for
// concurrent use.
type Agent struct {
	cfg  Config
	wake chan struct{}

	// Of Run alone.
	troubles map[task]*trouble
	missing  map[string]time.Time // since when the engine's answers lack a network, by id
	gone     map[string]time.Time // since when the store lacks a network that a user removed here, by UUID

	mu      sync.Mutex
	states  map[string]condition // by UUID
	names   map[string]string    // of local networks, by UUID
	problem string
	since   time.Time // of the problem; the zero time if it was told
}

// task tells apart what can fail.
type task struct {
	verb
	uuid, id string
}

// trouble is something that failed.
type trouble struct {
	text  string
	pause time.Duration
	next  time.Time
	told  bool   // in the log
	ids   string // the engine's networks then: when there are others, it may succeed
}

// New makes an agent; call [Agent.Run].
func New(cfg Config) *Agent {
	if cfg.Logger == nil {
		cfg.Logger = slog.New(slog.DiscardHandler)
	}
	if cfg.Now == nil {
		cfg.Now = time.Now
	}
	return &Agent{cfg: cfg, wake: make(chan struct{}, 1), troubles: map[task]*trouble{}, missing: map[string]time.Time{},
		problem: "it has not looked yet", since: cfg.Now()}
}

// Wake makes Run compare soon. It does not wait.
func (a *Agent) Wake() {
	select {
	case a.wake <- struct{}{}:
	default:
	}
}

// Run compares and acts until ctx ends.
func (a *Agent) Run(ctx context.Context) error {
	for {
		a.round(ctx)
		timer := time.NewTimer(a.pause())
		select {
		case <-ctx.Done():
			timer.Stop()
			return nil
		case <-a.wake:
		case <-timer.C:
		}
		timer.Stop()
	}
}

// pause is how long nothing has to be looked at, if nothing happens.
func (a *Agent) pause() time.Duration {
	until := a.cfg.Now().Add(every)
	if a.Problem() != "" {
		until = a.cfg.Now().Add(tellAfter)
	}
	for _, t := range a.troubles {
		if t.next.Before(until) {
			until = t.next
		}
	}
	for _, since := range a.missing {
		if due := since.Add(lostAfter); due.Before(until) {
			until = due
		}
	}
	return max(until.Sub(a.cfg.Now()), firstRetry/2)
}

// round compares, acts, and compares again as long as that changed something.
func (a *Agent) round(ctx context.Context) {
	for range passes {
		f, err := a.look(ctx)
		if ctx.Err() != nil {
			return
		}
		if err != nil {
			a.idle(err)
			return
		}
		out := plan(f)
		a.show(f, out)
		a.forget(ctx, out.forget)
		if !a.act(ctx, idsOf(f.networks), out.todo) {
			return
		}
	}
	a.Wake() // others change as fast as this host does
}

// forget takes away the marks of networks that are gone for good.
func (a *Agent) forget(ctx context.Context, uuids []string) {
	gone := make(map[string]time.Time)
	for _, uuid := range uuids {
		since, ok := a.gone[uuid]
		if !ok {
			since = a.cfg.Now()
		}
		gone[uuid] = since
		if a.cfg.Now().Sub(since) < forgetAfter {
			continue
		}
		if err := a.cfg.Host.ForgetAbsent(ctx, uuid); err != nil {
			a.cfg.Logger.Error("forget that a network was removed here", "uuid", uuid, "err", err)
		}
	}
	a.gone = gone
}

// look gathers the facts. What the engine says is asked last: a network that it lacks
// and that is neither here nor marked absent is not about to be removed.
func (a *Agent) look(ctx context.Context) (facts, error) {
	if !a.cfg.Directory.Synced() {
		return facts{}, errors.New("the store was not seen yet")
	}
	if err := a.cfg.Ready(); err != nil {
		return facts{}, err
	}
	f := facts{local: a.cfg.Host.Shared(), absent: map[string]bool{}}
	for _, uuid := range a.cfg.Host.Absent() {
		f.absent[uuid] = true
	}
	f.records = a.cfg.Directory.Networks()
	ctx, cancel := context.WithTimeout(ctx, engineTime)
	defer cancel()
	var err error
	if f.networks, err = a.cfg.Engine.Networks(ctx); err != nil {
		return f, fmt.Errorf("%w: networks of other hosts do not appear here, and new ones are shared by -o net=NAME only", err)
	}
	return f, a.note(ctx, &f)
}

// note marks the networks that the engine has lost, and remembers those that it has.
func (a *Agent) note(ctx context.Context, f *facts) error {
	has := make(map[string]bool)
	for _, n := range f.networks {
		has[n.ID] = true
		if n.Name == engineOwn {
			f.engine = n.ID
		}
	}
	missing := make(map[string]time.Time)
	for i, l := range f.local {
		if has[l.ID] && l.Listed != f.engine {
			if err := a.cfg.Host.NoteListed(ctx, l.ID, f.engine); err != nil {
				return err
			}
		}
		if has[l.ID] {
			continue
		}
		since, ok := a.missing[l.ID]
		if !ok {
			since = a.cfg.Now()
		}
		missing[l.ID] = since
		f.local[i].Lost = a.cfg.Now().Sub(since) >= lostAfter
	}
	a.missing = missing
	return nil
}

// idsOf tells apart sets of networks.
func idsOf(networks []engine.Network) string {
	var ids []string
	for _, n := range networks {
		ids = append(ids, n.ID)
	}
	slices.Sort(ids)
	return strings.Join(ids, " ")
}

// act does what is to be done now; changed says that something was. ids are the
// engine's networks.
func (a *Agent) act(ctx context.Context, ids string, todo []action) (changed bool) {
	wanted := make(map[task]bool)
	for _, do := range todo {
		key := task{do.verb, do.record.UUID, do.local.ID}
		wanted[key] = true
		if t := a.troubles[key]; t != nil && t.ids == ids && a.cfg.Now().Before(t.next) {
			continue
		}
		begin := a.cfg.Now()
		err := a.one(ctx, do)
		if ctx.Err() != nil {
			return false
		}
		if err != nil {
			a.failed(key, ids, do, err)
			continue
		}
		delete(a.troubles, key)
		changed = true
		a.cfg.Logger.Info("network of the cluster", "did", string(do.verb), "name", do.name(), "uuid", do.record.UUID,
			"took", a.cfg.Now().Sub(begin).Round(time.Millisecond))
	}
	for key := range a.troubles {
		if !wanted[key] {
			delete(a.troubles, key)
		}
	}
	return changed
}

func (do action) name() string {
	if do.net.Name != "" {
		return do.net.Name
	}
	return do.record.Name
}

// failed notes when to try again. The same error is told once.
func (a *Agent) failed(key task, ids string, do action, err error) {
	t := a.troubles[key]
	if t == nil {
		t = &trouble{pause: firstRetry / 2}
		a.troubles[key] = t
	}
	t.pause, t.ids = min(2*t.pause, lastRetry), ids
	t.next = a.cfg.Now().Add(t.pause)
	if lost := errors.Is(err, directory.ErrName); lost {
		// The directory shows the winner in a moment.
		a.cfg.Logger.Debug("another host was faster", "name", do.name())
		return
	}
	if t.text != err.Error() {
		// What fails once is often being made by the user at this moment.
		t.text, t.told = err.Error(), false
		a.cfg.Logger.Debug("network of the cluster", "wanted", string(do.verb), "name", do.name(), "err", err)
	} else if !t.told {
		t.told = true
		a.cfg.Logger.Error("network of the cluster; it is tried again", "wanted", string(do.verb), "name", do.name(), "uuid", do.record.UUID, "err", err)
	}
	a.mu.Lock()
	defer a.mu.Unlock()
	c := a.states[do.record.UUID]
	c.Why = t.text
	a.states[do.record.UUID] = c
}

// one does one thing.
func (a *Agent) one(ctx context.Context, do action) error {
	switch do.verb {
	case claim:
		return a.claim(ctx, do)
	case create:
		return a.create(ctx, do.record)
	case adopt:
		return a.adopt(ctx, do)
	case replace:
		return a.replace(ctx, do)
	case takeDown:
		return a.takeDown(ctx, do)
	case drop, part:
		return a.cfg.Host.Drop(ctx, do.local.ID, do.verb == part)
	}
	return fmt.Errorf("nobody knows how to %s a network", do.verb)
}

func (a *Agent) claim(ctx context.Context, do action) error {
	ctx, cancel := context.WithTimeout(ctx, storeTime)
	defer cancel()
	text, err := describe(do.net)
	if err != nil {
		return err
	}
	_, err = a.cfg.Directory.Claim(ctx, do.local.UUID, do.net.Name, text)
	return err
}

// create joins the network first: the record stays as long as this host is in it.
func (a *Agent) create(ctx context.Context, r directory.Network) (retErr error) {
	defer a.cfg.Host.Unmarked(r.UUID)()
	if err := a.join(ctx, r.UUID); err != nil {
		return err
	}
	defer func() {
		if retErr != nil && !a.has(r.UUID, "") {
			a.cfg.Directory.Forsake(r.UUID)
		}
	}()
	ctx, cancel := context.WithTimeout(ctx, engineTime)
	defer cancel()
	driver, err := a.cfg.Driver(ctx)
	if err != nil {
		return fmt.Errorf("ask the engine for weft's own name: %w", err)
	}
	n, err := network(r.Name, r.Spec, driver)
	if err != nil {
		return err
	}
	id, err := a.cfg.Engine.CreateNetwork(ctx, n)
	if err != nil {
		return err
	}
	if a.has(r.UUID, id) {
		return nil
	}
	// The record was removed meanwhile, and the name made a new network.
	for _, l := range a.cfg.Host.Shared() {
		if l.ID == id {
			defer a.cfg.Host.Unmarked(l.UUID)()
		}
	}
	return errors.Join(fmt.Errorf("network %s changed while it was created here", r.Name), a.cfg.Engine.RemoveNetwork(ctx, id))
}

// has reports whether this host has a network of the cluster, by any id if it is empty.
func (a *Agent) has(uuid, id string) bool {
	for _, l := range a.cfg.Host.Shared() {
		if l.UUID == uuid && (id == "" || l.ID == id) {
			return true
		}
	}
	return false
}

func (a *Agent) join(ctx context.Context, uuid string) error {
	ctx, cancel := context.WithTimeout(ctx, storeTime)
	defer cancel()
	_, err := a.cfg.Directory.Join(ctx, uuid)
	return err
}

// adopt makes a local network be the cluster's of its name.
func (a *Agent) adopt(ctx context.Context, do action) error {
	if err := a.join(ctx, do.record.UUID); err != nil {
		return err
	}
	err := a.cfg.Host.Rebind(ctx, do.local.ID, do.record)
	if err != nil && !a.has(do.record.UUID, "") {
		a.cfg.Directory.Forsake(do.record.UUID)
	}
	return err
}

// replace removes the local network. The next comparison creates the other one: who
// made a network of this name here wants it here.
func (a *Agent) replace(ctx context.Context, do action) error {
	defer a.cfg.Host.Unmarked(do.local.UUID)()
	ctx, cancel := context.WithTimeout(ctx, engineTime)
	defer cancel()
	if err := a.cfg.Engine.RemoveNetwork(ctx, do.local.ID); err != nil {
		return err
	}
	return a.cfg.Host.ForgetAbsent(ctx, do.record.UUID)
}

// takeDown removes a network with the endpoints that are on it.
func (a *Agent) takeDown(ctx context.Context, do action) error {
	defer a.cfg.Host.Unmarked(do.local.UUID)()
	if do.net.ID == "" {
		if do.local.Lost {
			return a.cfg.Host.Drop(ctx, do.local.ID, false)
		}
		return errors.New("the engine does not show the network that was removed everywhere")
	}
	ctx, cancel := context.WithTimeout(ctx, engineTime)
	defer cancel()
	containers, err := a.cfg.Engine.Connected(ctx, do.local.ID)
	if err != nil {
		return err
	}
	for _, c := range containers {
		if err := a.cfg.Engine.Disconnect(ctx, do.local.ID, c); err != nil {
			return fmt.Errorf("disconnect container %.12s: %w", c, err)
		}
		a.cfg.Logger.Warn("disconnected a container: its network was removed everywhere", "network", do.name(), "container", c)
	}
	return a.cfg.Engine.RemoveNetwork(ctx, do.local.ID)
}
