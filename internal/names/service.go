package names

import (
	"cmp"
	"context"
	"errors"
	"log/slog"
	"slices"
	"sync"
	"time"

	"github.com/weft-net/weft/internal/kernel"
)

// Config is what [New] takes. All but Logger are required.
type Config struct {
	Book *Book
	// Open opens the network namespace at a path; it is kernel.ErrNotFound while there is
	// none. A Sandbox is closed by the Service.
	Open func(path string) (Sandbox, error)
	// Redirect puts a redirection in force.
	Redirect func(Redirection) (Redirect, error)
	// Renew makes redirects hold for 9 s from now, without waiting, and tells with which of
	// them something is wrong.
	Renew  func(list []Redirect, failed func(Redirect, error))
	Logger *slog.Logger
}

// Bounds of time.
const (
	// lookEvery is the watchdog's pause, and hungAfter at how many looks in a row
	// something has to wait in vain.
	lookEvery = time.Second
	hungAfter = 3
	// renewEvery is how often redirects are renewed: at every fourth look. They hold for 9 s,
	// so one may be missed.
	renewEvery = 4*lookEvery - lookEvery/2
	// tidyEvery is how often sandboxes are looked at whether they are still there, and
	// sockets that were not used since are closed.
	tidyEvery = 5 * time.Second
	// A sandbox that is not there yet is looked for every soon as long as it is new.
	soon, isNew = 20 * time.Millisecond, 15 * time.Second
	// firstRetry doubles after each failure, up to lastRetry.
	firstRetry, lastRetry = 100 * time.Millisecond, time.Minute
)

// maxOpening is how many sandboxes are opened at the same time, and how many are closed. The
// kernel may take a minute for one, and who opens does not wait for who closes.
const maxOpening = 4

// A Service answers names inside the sandboxes that it attends to. Its methods wait for
// nothing but a lock that is held for no I/O, and are safe for concurrent use; the work
// is done by Run.
type Service struct {
	cfg    Config
	log    *slog.Logger
	common common
	places places
	wake   chan struct{}

	mu        sync.Mutex
	attended  map[string]*attendance // by path
	opening   int
	shutting  int
	renewed   time.Time
	looked    time.Time
	tidied    time.Time
	finishing sync.WaitGroup
}

// attendance is one sandbox: what is wanted, and how far that is.
type attendance struct {
	container Container
	// wanted is false when the sandbox was forsaken.
	wanted bool
	server *server // nil if there is none
	// busy says that a goroutine opens or closes the server.
	busy bool
	// fault is why the server has to go.
	fault error
	// since is when it was attended to, or lost, opened when its server last was.
	since, opened time.Time
	// retry is when the next try is due, after a pause that grows.
	retry time.Time
	pause time.Duration
	// told is the trouble that the log has.
	told string
}

// New returns a Service that attends to nothing.
func New(c Config) *Service {
	log := c.Logger
	if log == nil {
		log = slog.New(slog.DiscardHandler)
	}
	return &Service{
		cfg: c, log: log, places: standardPlaces(),
		wake: make(chan struct{}, 1), attended: map[string]*attendance{},
	}
}

// Attend answers names in a container's sandbox from as soon as the sandbox exists, or,
// if it does so already, lets it see other networks from now on.
func (s *Service) Attend(c Container) {
	c.Networks, c.Private = slices.Clone(c.Networks), slices.Clone(c.Private)
	s.mu.Lock()
	defer s.mu.Unlock()
	a := s.attended[c.Sandbox]
	switch {
	case a == nil:
		a = &attendance{since: time.Now()}
		s.attended[c.Sandbox] = a
	case a.wanted && a.container.same(c):
		return
	case !a.wanted:
		a.since, a.retry = time.Now(), time.Time{}
	}
	a.container, a.wanted = c, true
	if a.server != nil {
		a.server.see(newScope(s.cfg.Book, c))
	}
	s.poke()
}

// Forsake takes weft out of a sandbox; the engine alone answers there. A sandbox that
// weft does not attend to, or that is gone, is a success.
func (s *Service) Forsake(path string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if a := s.attended[path]; a != nil {
		a.wanted = false
		s.poke()
	}
}

// Attended returns the containers that weft attends to, sorted by path.
func (s *Service) Attended() []Container {
	s.mu.Lock()
	defer s.mu.Unlock()
	var out []Container
	for _, a := range s.attended {
		if a.wanted {
			out = append(out, a.container)
		}
	}
	slices.SortFunc(out, func(a, b Container) int { return cmp.Compare(a.Sandbox, b.Sandbox) })
	return out
}

// Status is how the Service gets on.
type Status struct {
	// Attended counts sandboxes, Serving those in which weft answers, Timed those of
	// them whose redirect outlives weft by up to 9 s, because the kernel is old.
	Attended, Serving, Timed int
	// Dropped counts questions that were one too many for their container, since the
	// start of what serves now. In DroppedMost there were most of them.
	Dropped     uint64
	DroppedMost string
	// Problems says why weft does not answer, by the container's name, or the path of its
	// sandbox while no name is known. A sandbox that is not there is none.
	Problems map[string]string
}

// Status says how the Service gets on.
func (s *Service) Status() Status {
	s.mu.Lock()
	defer s.mu.Unlock()
	out := Status{Problems: map[string]string{}}
	most := uint64(0)
	for _, a := range s.attended {
		if !a.wanted {
			continue
		}
		out.Attended++
		if a.server != nil && a.fault == nil && !a.server.redirect.Holds() {
			out.Problems[a.container.called()] = "the kernel does not renew weft's rules there: does this or another container change very many firewall rules?"
		} else if a.server != nil && a.fault == nil {
			out.Serving++
			dropped := a.server.dropped.Load()
			if out.Dropped += dropped; dropped > most {
				most, out.DroppedMost = dropped, a.container.called()
			}
			if a.server.redirect.Timed() {
				out.Timed++
			}
		} else if a.told != "" {
			out.Problems[a.container.called()] = a.told
		}
	}
	return out
}

// String names the task.
func (s *Service) String() string { return "names" }

// Run does the work until the context is done, and then leaves all sandboxes.
func (s *Service) Run(ctx context.Context) error {
	timer := time.NewTimer(lookEvery)
	defer timer.Stop()
	for {
		timer.Reset(s.step(time.Now()))
		select {
		case <-ctx.Done():
			s.leave()
			return nil
		case <-s.wake:
		case <-timer.C:
		}
	}
}

// poke makes Run compare again.
func (s *Service) poke() {
	select {
	case s.wake <- struct{}{}:
	default:
	}
}

// step starts what is to be done now, and returns how long nothing will be.
func (s *Service) step(now time.Time) time.Duration {
	s.watch(now)
	s.mu.Lock()
	defer s.mu.Unlock()
	next := s.looked.Add(lookEvery)
	for path, a := range s.attended {
		switch {
		case a.busy:
		case a.server == nil && !a.wanted:
			delete(s.attended, path)
		case a.server != nil && a.wanted && a.fault == nil: // as it should be
		case a.server != nil && s.shutting == maxOpening: // whoever is ready wakes us
		case a.server != nil:
			server := a.server
			s.begin(a, &s.shutting, func() { s.shut(a, server) })
		case s.opening == maxOpening: // the same
		case !a.retry.After(now):
			container := a.container
			a.fault = nil
			s.begin(a, &s.opening, func() { s.open(a, container) })
		case a.retry.Before(next):
			next = a.retry
		}
	}
	return max(next.Sub(now), 0)
}

// begin runs f, which is done with the attendance when it returns; count is of those under way.
func (s *Service) begin(a *attendance, count *int, f func()) {
	a.busy = true
	*count++
	s.finishing.Go(func() {
		f()
		s.mu.Lock()
		defer s.mu.Unlock()
		a.busy = false
		*count--
		s.poke()
	})
}

// open serves a sandbox.
func (s *Service) open(a *attendance, c Container) {
	server, err := s.serve(a, c)
	s.mu.Lock()
	defer s.mu.Unlock()
	if err == nil {
		a.server, a.opened = server, time.Now()
		server.see(newScope(s.cfg.Book, a.container)) // it may have changed
		if a.told != "" {
			s.log.Info("names are answered again", "in", c.called())
		}
		a.told = ""
		return
	}
	if errors.Is(err, kernel.ErrNotFound) {
		pause := lookEvery
		if time.Since(a.since) < isNew {
			pause = soon
		}
		a.retry = time.Now().Add(pause)
		return
	}
	s.trouble(a, err)
}

func (s *Service) serve(a *attendance, c Container) (*server, error) {
	sandbox, err := s.cfg.Open(c.Sandbox)
	if err != nil {
		return nil, err
	}
	return openServer(sandbox, s.places, &s.common, newScope(s.cfg.Book, c), s.cfg.Redirect, func(by *server, err error) { s.fault(a, by, err) })
}

// shut closes what is not wanted any more or failed.
func (s *Service) shut(a *attendance, server *server) {
	err := server.close()
	s.mu.Lock()
	defer s.mu.Unlock()
	if err != nil {
		s.log.Warn("leaving a sandbox", "in", a.container.called(), "error", err)
	}
	fault := a.fault
	a.server, a.fault = nil, nil
	a.since = time.Now()
	if fault != nil && !errors.Is(fault, kernel.ErrNotFound) {
		s.trouble(a, fault)
	}
}

// trouble is said once, and what caused it tried again, later each time.
func (s *Service) trouble(a *attendance, err error) {
	if !a.opened.IsZero() && time.Since(a.opened) > lastRetry {
		a.pause, a.opened = 0, time.Time{} // it went well for long, which counts once
	}
	a.pause = min(max(2*a.pause, firstRetry), lastRetry)
	a.retry = time.Now().Add(a.pause)
	if text := err.Error(); text != a.told {
		a.told = text
		s.log.Warn("names of other hosts are not answered", "in", a.container.called(), "error", err)
	}
}

// fault makes a server go, and says why. It may come from the server at any time.
func (s *Service) fault(a *attendance, by *server, err error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if a.fault == nil && (a.server == by || a.server == nil && a.busy) {
		a.fault = err
		s.poke()
	}
}

// leave waits for what is under way and closes all servers, side by side: the kernel takes
// its time for each. Others can have the lock meanwhile: a redirect that is being renewed is
// closed after that, and a renewal that fails says so here.
func (s *Service) leave() {
	s.finishing.Wait()
	s.mu.Lock()
	leaving := map[*server]string{}
	for _, a := range s.attended {
		if a.server != nil {
			leaving[a.server] = a.container.called()
			a.server = nil
		}
	}
	s.mu.Unlock()
	var all sync.WaitGroup
	for server, called := range leaving {
		all.Go(func() {
			if err := server.close(); err != nil {
				s.log.Warn("leaving a sandbox", "in", called, "error", err)
			}
		})
	}
	all.Wait()
}

// see gives the server another view of the names.
func (s *server) see(l Lookup) { s.lookup.Store(&l) }
