package namesync

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"math/rand/v2"
	"net/netip"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/weft-net/weft/internal/directory"
	"github.com/weft-net/weft/internal/engine"
	"github.com/weft-net/weft/internal/names"
	"github.com/weft-net/weft/internal/ownership"
)

// world is an engine, a directory and a host whose facts a test sets.
type world struct {
	mu         sync.Mutex
	containers map[string]engine.Container
	networks   []engine.Network
	down       error
	slow       map[string]chan struct{} // who asks about these waits
	waiting    int                      // who asked about these, ever
	broken     string                   // who asks about this one gets an error
	places     []Place
	remote     []directory.Endpoint
	called     map[string][]string
	whole      []bool        // what SetNames was told, each time
	gate       chan struct{} // who asks for the list waits
}

func (w *world) set(f func()) {
	w.mu.Lock()
	defer w.mu.Unlock()
	f()
}

func (w *world) Running(ctx context.Context) ([]string, error) {
	w.mu.Lock()
	gate := w.gate
	w.mu.Unlock()
	if gate != nil {
		select {
		case <-gate:
		case <-ctx.Done():
			return nil, ctx.Err()
		}
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	return slices.Sorted(maps.Keys(w.containers)), w.down
}

func (w *world) Networks(context.Context) ([]engine.Network, error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.networks, w.down
}

func (w *world) Container(ctx context.Context, id string) (engine.Container, error) {
	w.mu.Lock()
	wait := w.slow[id]
	if wait != nil {
		w.waiting++
	}
	w.mu.Unlock()
	if wait != nil {
		select {
		case <-wait:
		case <-ctx.Done():
			return engine.Container{}, ctx.Err()
		}
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	c, ok := w.containers[id]
	if id == w.broken {
		return c, errors.New("the engine cannot look at it")
	}
	if !ok && w.down == nil {
		return c, fmt.Errorf("%w: %s", engine.ErrNoContainer, id)
	}
	return c, w.down
}

func (w *world) Shared() []Network {
	w.mu.Lock()
	defer w.mu.Unlock()
	return []Network{{ID: "demo-id", UUID: "u1", Name: "demo", Places: slices.Clone(w.places)}}
}

func (w *world) LastKnown(string) []directory.Endpoint {
	w.mu.Lock()
	defer w.mu.Unlock()
	return slices.Clone(w.remote)
}

func (w *world) SetNames(called map[string][]string, all bool) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.called, w.whole = called, append(w.whole, all)
}

// attendance is a resolver that only notes whom it attends to.
type attendance struct {
	mu   sync.Mutex
	list map[string]names.Container
}

func (a *attendance) Attend(c names.Container) {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.list[c.Sandbox] = c
}

func (a *attendance) Forsake(path string) {
	a.mu.Lock()
	defer a.mu.Unlock()
	delete(a.list, path)
}

func (a *attendance) Attended() []names.Container {
	a.mu.Lock()
	defer a.mu.Unlock()
	return slices.Collect(maps.Values(a.list))
}

// run starts an agent; state is all that it put in force.
func run(t *testing.T, w *world) (a *Agent, state func() string) {
	t.Helper()
	book, service := names.NewBook(), &attendance{list: map[string]names.Container{}}
	a = New(Config{Engine: w, Directory: w, Host: w, Me: func() ownership.Host { return "h1" }, Book: book, Service: service})
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error)
	go func() { done <- a.Run(ctx) }()
	t.Cleanup(func() {
		cancel()
		if err := <-done; err != nil {
			t.Error(err)
		}
	})
	return a, func() string {
		var out []string
		for _, n := range book.Networks() {
			for _, e := range n.Endpoints {
				out = append(out, fmt.Sprintf("%s:%s@%s", n.Name, strings.Join(e.Names, ","), e.Host))
			}
		}
		for _, c := range service.Attended() {
			out = append(out, c.Sandbox+"->"+strings.Join(c.Networks, ","))
		}
		w.mu.Lock()
		defer w.mu.Unlock()
		for _, ep := range slices.Sorted(maps.Keys(w.called)) {
			out = append(out, ep+"="+strings.Join(w.called[ep], ","))
		}
		slices.Sort(out)
		return strings.Join(out, " ")
	}
}

func until(t *testing.T, state func() string, want string) {
	t.Helper()
	deadline := time.Now().Add(10 * time.Second)
	for state() != want {
		if time.Now().After(deadline) {
			t.Fatalf("it is\n%s\ninstead of\n%s", state(), want)
		}
		time.Sleep(5 * time.Millisecond)
	}
}

// TestAgent: names follow the engine, the directory and the driver, each by its event.
func TestAgent(t *testing.T) {
	w := &world{containers: map[string]engine.Container{"w1": container("w1", "web", at("demo", "e1", "10.1.0.2"))},
		networks: []engine.Network{{ID: "demo-id", Name: "demo"}, {ID: "mine-id", Name: "mine"}}, places: []Place{{"e1", "/ns/w1"}}, down: errors.New("not yet")}
	a, state := run(t, w)
	until(t, state, "/ns/w1->demo-id")
	if err := a.Problem(); err == nil {
		t.Error("there is an engine that does not answer, and no problem")
	}
	w.set(func() { w.down = nil })
	a.Container("")
	until(t, state, "/ns/w1->demo-id demo:web,w1@h1 e1=web,w1")
	until(t, func() string { return fmt.Sprint(a.Problem()) }, "<nil>")
	w.set(func() {
		w.remote = []directory.Endpoint{remote("h2", "r1", "10.1.0.9", "redis"), remote("h1", "e1", "10.1.0.2", "stale"), {Host: "h2", ID: "host", Own: true}}
	})
	a.Network("u1")
	until(t, state, "/ns/w1->demo-id demo:redis@h2 demo:web,w1@h1 e1=web,w1")
	w.set(func() {
		w.containers["w1"] = container("w1", "shop", at("demo", "e1", "10.1.0.2"), at("mine", "e2", "10.2.0.2"))
	})
	a.Container("w1")
	until(t, state, "/ns/w1->demo-id,mine-id demo:redis@h2 demo:shop,w1@h1 e1=shop,w1 e2=shop,w1 mine:shop,w1@h1")
	w.set(func() { w.places = nil })
	a.Wake()
	until(t, state, "demo:redis@h2 e1=shop,w1 e2=shop,w1") // the engine answers for what left
	w.set(func() { delete(w.containers, "w1") })
	a.Container("w1")
	until(t, state, "demo:redis@h2")
}

// TestEngineAway: names stay what they were while the engine does not answer, and what
// happened meanwhile is made up for.
func TestEngineAway(t *testing.T) {
	w := &world{containers: map[string]engine.Container{"w1": container("w1", "web", at("demo", "e1", "10.1.0.2"))}, networks: []engine.Network{{ID: "demo-id", Name: "demo"}},
		places: []Place{{"e1", "/ns"}, {"e2", "/ns"}}}
	a, state := run(t, w)
	a.Container("")
	until(t, state, "/ns->demo-id demo:web,w1@h1 e1=web,w1")
	w.set(func() {
		w.down = errors.New("no such socket")
		w.containers = map[string]engine.Container{"w2": container("w2", "new", at("demo", "e2", "10.1.0.3"))}
	})
	a.Container("")
	until(t, func() string { return fmt.Sprint(a.Problem()) }, "the names of this host's containers are not known to other hosts: no such socket")
	until(t, state, "/ns->demo-id demo:web,w1@h1 e1=web,w1")
	w.set(func() { w.down = nil })
	until(t, state, "/ns->demo-id demo:new,w2@h1 e2=new,w2") // without an event
	until(t, func() string { return fmt.Sprint(a.Problem()) }, "<nil>")
}

// TestWhole: the directory is told that these are all names only when the engine has said
// everything. It would take the names of other endpoints away.
func TestWhole(t *testing.T) {
	list, look := make(chan struct{}), make(chan struct{})
	w := &world{containers: map[string]engine.Container{"w1": container("w1", "web", at("demo", "e1", "10.1.0.2")), "w2": container("w2", "db", at("demo", "e2", "10.1.0.3"))},
		networks: []engine.Network{{ID: "demo-id", Name: "demo"}}, gate: list, slow: map[string]chan struct{}{"w1": look}, places: []Place{{"e1", "/ns/w1"}, {"e2", "/ns/w2"}}}
	a, state := run(t, w)
	told := func(when string, want bool) {
		t.Helper()
		w.set(func() { w.whole = nil })
		for n := 1; n <= 3; n++ { // the first may have been on its way
			a.Wake()
			until(t, func() string {
				w.mu.Lock()
				defer w.mu.Unlock()
				return fmt.Sprint(len(w.whole) >= n)
			}, "true")
		}
		w.set(func() {
			if slices.Contains(w.whole[1:], !want) {
				t.Errorf("%s: whole is %v, want %v", when, w.whole, want)
			}
		})
	}
	told("before the first list", false)
	w.set(func() { w.down, w.gate = errors.New("not yet"), nil })
	close(list)
	until(t, func() string { return fmt.Sprint(strings.HasSuffix(fmt.Sprint(a.Problem()), "not yet")) }, "true")
	told("after a list that failed", false)
	w.set(func() { w.down = nil })
	until(t, state, "/ns/w1->demo-id /ns/w2->demo-id demo:db,w2@h1 e2=db,w2")
	told("while a look is open", false)
	close(look)
	until(t, state, "/ns/w1->demo-id /ns/w2->demo-id demo:db,w2@h1 demo:web,w1@h1 e1=web,w1 e2=db,w2")
	told("when all is known", true)
	list = make(chan struct{})
	w.set(func() { w.gate = list })
	a.Container("")
	told("while all are to be looked at again", false)
	close(list)
	until(t, func() string {
		w.mu.Lock()
		defer w.mu.Unlock()
		return fmt.Sprint(w.whole[len(w.whole)-1])
	}, "true")
	told("when all is known again", true)
}

// TestSlowContainer: one that the engine is busy with keeps no other one waiting.
func TestSlowContainer(t *testing.T) {
	gate := make(chan struct{})
	w := &world{containers: map[string]engine.Container{"w1": container("w1", "slow", at("demo", "e1", "10.1.0.2")), "w2": container("w2", "quick", at("demo", "e2", "10.1.0.3"))},
		networks: []engine.Network{{ID: "demo-id", Name: "demo"}}, slow: map[string]chan struct{}{"w1": gate}, places: []Place{{"e1", "/ns"}, {"e2", "/ns"}}}
	a, state := run(t, w)
	a.Container("")
	until(t, state, "/ns->demo-id demo:quick,w2@h1 e2=quick,w2")
	w.set(func() { w.containers["w2"] = container("w2", "other", at("demo", "e2", "10.1.0.3")) })
	a.Container("w1") // it is asked about again afterwards
	a.Container("w2")
	until(t, state, "/ns->demo-id demo:other,w2@h1 e2=other,w2")
	close(gate)
	until(t, state, "/ns->demo-id demo:other,w2@h1 demo:slow,w1@h1 e1=slow,w1 e2=other,w2")
}

// TestManySlowContainers: more of them than are looked at side by side hold up the others
// for a moment only.
func TestManySlowContainers(t *testing.T) {
	gate := make(chan struct{})
	w := &world{containers: map[string]engine.Container{}, networks: []engine.Network{{ID: "demo-id", Name: "demo"}}, slow: map[string]chan struct{}{}, places: []Place{{"e", "/ns"}}}
	a, state := run(t, w)
	for i := range looking {
		id := fmt.Sprintf("s%d", i)
		w.set(func() { w.containers[id], w.slow[id] = container(id, id, at("demo", "e-"+id, "10.1.0.2")), gate })
	}
	a.Container("")
	until(t, func() string {
		w.mu.Lock()
		defer w.mu.Unlock()
		return fmt.Sprint(w.waiting)
	}, fmt.Sprint(looking))
	w.set(func() { w.containers["q1"] = container("q1", "quick", at("demo", "e", "10.1.0.3")) })
	a.Container("q1")
	until(t, state, "/ns->demo-id demo:quick,q1@h1 e=quick,q1")
	close(gate)
}

// TestMissedEvent: the list that is asked for once a minute finds what no event told.
func TestMissedEvent(t *testing.T) {
	w := &world{containers: map[string]engine.Container{"w1": container("w1", "web")}}
	r := newRoster(w, func() {})
	now := time.Now()
	step := func() string {
		r.step(t.Context(), now)
		r.work.Wait()
		r.step(t.Context(), now) // looks at those that the list named
		r.work.Wait()
		containers, _, _ := r.known()
		var out []string
		for _, c := range containers {
			out = append(out, c.Name)
		}
		return strings.Join(out, " ")
	}
	if got := step(); got != "web" {
		t.Fatalf("%q", got)
	}
	w.containers = map[string]engine.Container{"w2": container("w2", "new")}
	if got := step(); got != "web" {
		t.Fatalf("%q: the list was asked for again at once", got)
	}
	now = now.Add(listEvery)
	if got := step(); got != "new" {
		t.Fatalf("%q", got)
	}
}

// TestPauseOfALongList: while a list is under way the next one waits for its end, which is news;
// nothing is to be done until then, and a look that is due is not late.
func TestPauseOfALongList(t *testing.T) {
	w := &world{gate: make(chan struct{}), broken: "bad"}
	news := make(chan struct{}, 10)
	r := newRoster(w, func() { news <- struct{}{} })
	now := time.Now()
	r.step(t.Context(), now)
	r.ask("") // the engine was reached again
	for _, later := range []time.Duration{0, time.Second, listEvery, 2 * listEvery} {
		if pause := r.step(t.Context(), now.Add(later)); pause <= 0 || pause > listEvery {
			t.Errorf("%v after the list was asked for: nothing is to be done for %v", later, pause)
		}
	}
	r.ask("bad")
	r.step(t.Context(), now)
	<-news
	if pause := r.step(t.Context(), now); pause <= 0 || pause > 2*askAgain {
		t.Errorf("one that cannot be looked at is looked at again after %v", pause)
	}
	close(w.gate)
	<-news
	w.set(func() { w.gate = make(chan struct{}) })
	r.step(t.Context(), now)
	r.mu.Lock()
	if !r.listing {
		t.Error("the list that was asked for meanwhile does not begin")
	}
	r.mu.Unlock()
	w.set(func() { close(w.gate) })
	r.work.Wait()
}

// One container that the engine cannot look at keeps no other one from being looked at.
func TestBrokenContainer(t *testing.T) {
	w := &world{containers: map[string]engine.Container{"bad": {ID: "bad", Running: true}, "good": {ID: "good", Running: true}}, broken: "bad"}
	r := newRoster(w, func() {})
	begin := time.Now()
	look := func(now time.Time, want ...string) {
		t.Helper()
		r.step(t.Context(), now)
		r.work.Wait()
		if known, _, _ := r.known(); !slices.Equal(slices.Sorted(maps.Keys(known)), want) {
			t.Errorf("known are %v, want %v", slices.Collect(maps.Keys(known)), want)
		}
	}
	r.ask("bad")
	look(begin)
	r.ask("good")
	look(begin, "good")
	if pause := r.step(t.Context(), begin); pause > 2*askAgain {
		t.Errorf("the broken one is looked at again after %v", pause)
	}
	r.work.Wait()
	w.set(func() { w.broken = "" })
	look(time.Now().Add(2*askAgain), "bad", "good")
}

// countedBook counts how often a whole network is written.
type countedBook struct {
	*names.Book
	whole int
}

func (b *countedBook) SetNetwork(n names.Network) {
	b.whole++
	b.Book.SetNetwork(n)
}

// TestWrite: of a network that the book has, only what changed is written, and the book is what
// it were if all of it had been.
func TestWrite(t *testing.T) {
	random := rand.New(rand.NewPCG(1, 2))
	book := &countedBook{Book: names.NewBook()}
	a := New(Config{Book: book})
	n := names.Network{ID: "demo-id", Name: "demo"}
	write := func(what string, whole int) {
		t.Helper()
		book.whole = 0
		a.write(n)
		a.book[n.ID] = n
		want := names.NewBook()
		want.SetNetwork(n)
		if got, want := fmt.Sprint(book.Networks()), fmt.Sprint(want.Networks()); got != want {
			t.Fatalf("%s: the book is\n%s\ninstead of\n%s", what, got, want)
		}
		if whole >= 0 && book.whole != whole {
			t.Errorf("%s: the whole network was written %d times, want %d", what, book.whole, whole)
		}
	}
	some := func(id int) names.Endpoint {
		return names.Endpoint{Host: "h2", ID: fmt.Sprint("e", id), Local: id%3 == 0, Names: []string{"all", fmt.Sprint("n", random.IntN(20))},
			Addrs: []netip.Addr{netip.AddrFrom4([4]byte{10, 1, 0, byte(random.IntN(50))})}}
	}
	for i := range 30 {
		n.Endpoints = append(n.Endpoints, some(i))
	}
	write("a new network", 1)
	write("nothing", 0)
	for next := 30; next < 300; next++ {
		i, j := random.IntN(30), random.IntN(30)
		n.Endpoints = slices.Clone(n.Endpoints)
		n.Endpoints[i], n.Endpoints[j] = some(next), n.Endpoints[i] // one goes, one comes, one moves
		n.Endpoints[(j+1)%30].Names = []string{"all", "other"}
		write("a few", 0)
	}
	n.Name = "other"
	write("another name", 1)
	n.Engine = true
	write("the engine's", 1)
	n.Endpoints = n.Endpoints[:3]
	write("most of it", 1)
	for range 1000 { // of two with one id the last counts
		n.Endpoints = nil
		for range random.IntN(8) {
			n.Endpoints = append(n.Endpoints, some(random.IntN(4)))
		}
		write("some twice", -1)
	}
}

// BenchmarkOneOfThousands is what follows from one endpoint of 5,000 that changed.
func BenchmarkOneOfThousands(b *testing.B) {
	w := &world{networks: []engine.Network{{ID: "demo-id", Name: "demo"}}}
	for i := range 5000 {
		w.remote = append(w.remote, remote("h2", fmt.Sprintf("e%04d", i), fmt.Sprintf("10.1.%d.%d", i>>8, i&255), fmt.Sprintf("c%d", i), fmt.Sprintf("%012x", i)))
	}
	a := New(Config{Engine: w, Directory: w, Host: w, Me: func() ownership.Host { return "h1" }, Book: names.NewBook()})
	a.compare()
	b.ReportAllocs()
	for i := 0; b.Loop(); i++ {
		w.remote[i%5000].Names = []string{fmt.Sprintf("c%d", i), fmt.Sprintf("renamed%d", i)}
		a.Network("u1")
		a.compare()
	}
}
