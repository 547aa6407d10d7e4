package namesync

import (
	"context"
	"errors"
	"maps"
	"sync"
	"time"

	"github.com/weft-net/weft/internal/engine"
)

// Engine is what the agent asks of the Docker API; see package engine.
type Engine interface {
	Running(ctx context.Context) ([]string, error)
	Container(ctx context.Context, id string) (engine.Container, error)
	Networks(ctx context.Context) ([]engine.Network, error)
}

// Bounds of the questions to the engine.
const (
	// looking is how many containers are looked at side by side. The engine answers about
	// one that it is starting only when that is done; a look that has waited for hanging
	// counts no more.
	looking, hanging = 8, time.Second
	// lookTime bounds one question, listEvery is the pause between lists, and askAgain
	// that after a list that failed, or until a container is looked at again of which a
	// look failed.
	lookTime, listEvery, askAgain = 30 * time.Second, time.Minute, time.Second
)

// A roster is what the engine said of the containers that run here, and of the networks.
// It is level-triggered: an id that is asked for is looked at, whatever happened to it.
type roster struct {
	engine Engine
	news   func() // after something was learned
	slots  chan struct{}
	work   sync.WaitGroup

	mu         sync.Mutex
	containers map[string]engine.Container
	networks   map[string]engine.Network
	asked      map[string]time.Time // to be looked at, and from when on
	busy       map[string]bool      // being looked at
	everyone   bool                 // all are to be looked at
	listing    bool
	listed     time.Time // when the list was last asked for
	failed     time.Time // when a list last failed; the zero time if none did since
	why        error     // why the engine's last list failed
}

func newRoster(e Engine, news func()) *roster {
	return &roster{engine: e, news: news, slots: make(chan struct{}, looking), why: errors.New("the engine was not asked yet"),
		containers: map[string]engine.Container{}, networks: map[string]engine.Network{}, asked: map[string]time.Time{}, busy: map[string]bool{}}
}

// ask notes that a container is to be looked at; all are, for an empty id.
func (r *roster) ask(id string) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if id == "" {
		r.everyone, r.listed = true, time.Time{}
		return
	}
	r.asked[id] = time.Time{}
}

// step begins what is to be asked now, and returns how long nothing will be, unless there is
// news before: of a list that ends, for one.
func (r *roster) step(ctx context.Context, now time.Time) time.Duration {
	r.mu.Lock()
	defer r.mu.Unlock()
	if pause := askAgain - now.Sub(r.failed); pause > 0 {
		return pause
	}
	if !r.listing && now.Sub(r.listed) >= listEvery {
		r.listing, r.listed = true, now
		r.work.Go(func() { r.list(ctx) })
	}
	next := now.Add(listEvery)
	if !r.listing {
		next = r.listed.Add(listEvery)
	}
	for id, due := range r.asked {
		if r.busy[id] {
			continue // it is looked at again when that has ended
		}
		if due.After(now) {
			if due.Before(next) {
				next = due
			}
			continue
		}
		delete(r.asked, id)
		r.busy[id] = true
		r.work.Go(func() { r.look(ctx, id) })
	}
	return max(next.Sub(now), 0)
}

// list asks which containers run, and for the networks. Those that are new, or not there
// any more, are looked at.
func (r *roster) list(ctx context.Context) {
	ctx, cancel := context.WithTimeout(ctx, lookTime)
	defer cancel()
	ids, err := r.engine.Running(ctx)
	var networks []engine.Network
	if err == nil {
		networks, err = r.engine.Networks(ctx)
	}
	defer r.news()
	r.mu.Lock()
	defer r.mu.Unlock()
	r.listing, r.why = false, err
	if err != nil {
		r.failed, r.listed = time.Now(), time.Time{}
		return
	}
	r.failed = time.Time{}
	clear(r.networks)
	for _, n := range networks {
		r.networks[n.ID] = n
	}
	gone := maps.Clone(r.containers)
	for _, id := range ids {
		if _, known := r.containers[id]; !known || r.everyone {
			r.asked[id] = time.Time{}
		}
		delete(gone, id)
	}
	for id := range gone {
		r.asked[id] = time.Time{}
	}
	r.everyone = false
}

// look asks about one container. One on a network that is not known makes the list be
// asked for.
func (r *roster) look(ctx context.Context, id string) {
	select {
	case r.slots <- struct{}{}:
	case <-ctx.Done():
		return
	}
	free := sync.OnceFunc(func() { <-r.slots })
	defer time.AfterFunc(hanging, free).Stop()
	defer free()
	ctx, cancel := context.WithTimeout(ctx, lookTime)
	defer cancel()
	c, err := r.engine.Container(ctx, id)
	defer r.news()
	r.mu.Lock()
	defer r.mu.Unlock()
	delete(r.busy, id)
	switch {
	case errors.Is(err, engine.ErrNoContainer), err == nil && !c.Running:
		delete(r.containers, id)
	case err != nil:
		if _, again := r.asked[id]; !again { // nobody asked meanwhile
			r.asked[id] = time.Now().Add(askAgain)
		}
	default:
		r.containers[id] = c
		for _, at := range c.Attachments {
			if _, known := r.networks[at.Network]; !known {
				r.listed = time.Time{}
			}
		}
	}
}

// known returns what the engine said last, and whether that is all there is to say.
func (r *roster) known() (containers map[string]engine.Container, networks map[string]engine.Network, whole bool) {
	r.mu.Lock()
	defer r.mu.Unlock()
	whole = r.why == nil && !r.everyone && !r.listing && len(r.asked) == 0 && len(r.busy) == 0
	return maps.Clone(r.containers), maps.Clone(r.networks), whole
}

// problem is why the engine cannot be asked, nil if it can.
func (r *roster) problem() error {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.why
}
