package ipam

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"maps"
	"net/netip"
	"slices"
	"strings"
	"time"

	"github.com/weft-net/weft/internal/cluster"
	"github.com/weft-net/weft/internal/ownership"
	"github.com/weft-net/weft/internal/store"
)

// How long a request may wait for the other hosts.
const (
	waitDynamic  = 2 * time.Second         // this host owns no free address
	waitExplicit = 2500 * time.Millisecond // another host owns the wanted one: 3 s with the engine
	waitShared   = 5 * time.Second         // a gateway or aux address: a network is being made
)

// lookAgain is the pause before what may change by itself is looked at again.
const lookAgain = 20 * time.Millisecond

// askAtOnce is how many owners are asked for any address at a time: what comes
// beyond the first one is kept for the next container.
const askAtOnce = 8

// need is why a request cannot be granted from what this host owns. It is no
// refusal yet.
type need struct {
	token token        // of the pool
	addr  netip.Addr   // this address
	kind  Kind         // shared as this, if not for an endpoint
	first bool         // chosen as the first of its kind
	rng   netip.Prefix // any address of this range
}

// Error is never shown.
func (n *need) Error() string { return "this host does not own it" }

// seek gets for one request what this host does not own.
type seek struct {
	m     *IPAM
	until time.Time
	// latest is when a request that waited for probes before has to be answered.
	latest time.Time
	// asked are the owners that were asked, with their answers: "" while there is
	// none.
	asked  map[ownership.Host]string
	rounds int // in which all owners said no
	// shared is the address that was wished to be shared, until it is held.
	shared netip.Addr
	share  *share
}

// next says what to wait for, or that there is no hope. The caller holds mu.
func (s *seek) next(ctx context.Context, p *pool, n *need) (step, error) {
	sh := p.book.share
	s.share = sh
	if s.until.IsZero() {
		wait := waitDynamic
		switch {
		case n.kind != KindEndpoint:
			wait = waitShared
		case n.addr.IsValid():
			wait = waitExplicit
		}
		s.until = time.Now().Add(wait)
		if n.kind == KindEndpoint && s.latest.Before(s.until) {
			s.until = s.latest
		}
	}
	left := time.Until(s.until)
	if err := s.m.reachable(sh); err != nil {
		if !n.addr.IsValid() && sh.own.Keep(n.rng) {
			s.m.poke() // what was to be given away is needed here now
			return step{busy: sh.changed, wait: lookAgain}, nil
		}
		return step{}, s.fail(p, n, err)
	}
	if left <= 0 {
		return step{}, s.fail(p, n, nil)
	}
	wait := step{busy: sh.changed, wait: left}
	switch {
	case !sh.own.Open() || !s.m.inside(sh):
		return wait, nil
	case !n.addr.IsValid():
		return s.any(ctx, p, n, wait)
	}
	return s.one(ctx, p, n, wait)
}

// reachable says why nothing can be had from the others now; nil if it may.
func (m *IPAM) reachable(sh *share) error {
	if m.cfg.Cluster == nil {
		return fmt.Errorf("the pool is of cluster %s, and WEFT_STORE is not set", sh.rec.Store)
	}
	// A host with a new id knows no store before it sees one.
	if known := m.cfg.Cluster.UUID(); known != "" && known != sh.rec.Store {
		return fmt.Errorf("the pool is of another store than WEFT_STORE (cluster %s)", sh.rec.Store)
	}
	if !m.cfg.Cluster.Up() {
		return store.ErrDown
	}
	return m.cfg.Cluster.Ready()
}

// any gets an address that nobody owns, or asks the owners of the most for one.
func (s *seek) any(ctx context.Context, p *pool, n *need, wait step) (step, error) {
	sh, hosts := p.book.share, s.m.members(p.book.share)
	if sh.own.Fetching() {
		return wait, nil
	}
	if sh.own.Fetch(n.rng, sh.own.Batch(n.rng, hosts), hosts) > 0 {
		s.m.poke()
		return wait, nil
	}
	open := 0
	for _, answer := range s.asked {
		if answer == "" {
			open++
		}
	}
	owners := sh.own.Owners(n.rng)
	delete(owners, s.m.me())
	for _, h := range slices.SortedFunc(maps.Keys(owners), func(a, b ownership.Host) int {
		return cmp.Or(cmp.Compare(owners[b], owners[a]), cmp.Compare(a, b))
	}) {
		if _, done := s.asked[h]; done || open == askAtOnce {
			continue
		}
		if !s.m.cfg.Cluster.Connected(h) {
			s.asked[h] = "it is not connected"
			continue
		}
		s.ask(ctx, sh, h, ownership.Ask{Range: n.rng})
		open++
	}
	if open > 0 {
		return wait, nil
	}
	return s.round(p, n, wait)
}

// round begins to ask all owners anew, while any of them has an address on the way.
// All of them have to say twice that there is none: it may have moved from one that
// was not asked yet to one that was.
func (s *seek) round(p *pool, n *need, wait step) (step, error) {
	moving := false
	for _, answer := range s.asked {
		moving = moving || again(answer)
	}
	if !moving {
		s.rounds++
	}
	if s.rounds > 1 {
		return step{}, s.fail(p, n, nil)
	}
	clear(s.asked)
	wait.wait = min(wait.wait, lookAgain)
	return wait, nil
}

// one gets the one address that is wanted.
func (s *seek) one(ctx context.Context, p *pool, n *need, wait step) (step, error) {
	sh := p.book.share
	if err := sh.own.Bad()[ownership.First(n.addr)]; err != nil {
		return step{}, s.fail(p, n, err)
	}
	owner, shared := sh.own.Owner(n.addr)
	if shared && n.kind == KindEndpoint {
		return step{}, refuse(ErrInUse, "choose another address", "%s of %s is a gateway or aux address of the cluster's pool", n.addr, p.id.subnet)
	}
	if n.kind != KindEndpoint {
		if s.shared != n.addr {
			s.unshare()
		}
		s.shared = n.addr
		if n.first {
			sh.own.ShareFirst(n.addr, string(n.kind))
		} else {
			sh.own.Share(n.addr, string(n.kind), true)
		}
		s.m.poke()
	}
	if owner == "" || owner == s.m.me() {
		if n.kind == KindEndpoint {
			sh.own.Want(n.addr)
			s.m.poke()
		}
		return wait, nil
	}
	answer, asked := s.asked[owner]
	switch {
	case asked && again(answer):
		delete(s.asked, owner)
		wait.wait = min(wait.wait, lookAgain)
		return wait, nil
	case asked && answer != "":
		return step{}, refuse(ErrInUse, "choose another address, or remove what has it there", "%s of %s belongs to host %s: %s",
			n.addr, p.id.subnet, s.m.cfg.Cluster.Name(owner), answer)
	case asked:
		return wait, nil
	case !s.m.cfg.Cluster.Connected(owner):
		return step{}, refuse(ErrOwner, "start that host, or run `weft host rm` if it is gone for good", "%s of %s belongs to host %s, which is not connected",
			n.addr, p.id.subnet, s.m.cfg.Cluster.Name(owner))
	}
	s.ask(ctx, sh, owner, ownership.Ask{Address: n.addr})
	return wait, nil
}

// ask asks one owner, in the background.
func (s *seek) ask(ctx context.Context, sh *share, owner ownership.Host, a ownership.Ask) {
	s.asked[owner] = ""
	sh.out++
	a.Pool = ownersPrefix(sh)
	ctx, cancel := context.WithDeadline(context.WithoutCancel(ctx), s.until)
	go func() {
		defer cancel()
		why, err := s.m.cfg.Cluster.Ask(ctx, owner, a)
		switch {
		case errors.Is(err, context.DeadlineExceeded):
			why = "it did not answer in time"
		case errors.Is(err, cluster.ErrBusy), err == nil && why == "":
			why = ownership.AskAgain // given: it shows in a moment, if nobody takes it
		case err != nil:
			why = err.Error()
		}
		s.m.mu.Lock()
		defer s.m.mu.Unlock()
		sh.out--
		s.asked[owner] = why
		s.m.notify(sh)
	}()
}

// again reports whether an answer may be another one in a moment.
func again(answer string) bool {
	return answer == ownership.AskAgain || answer == ownership.AskElsewhere
}

// fail says why the request has to be refused.
func (s *seek) fail(p *pool, n *need, cause error) error {
	c := s.m.cfg.Cluster
	if cause == nil && c != nil {
		cause = c.Problem() // a store that is full is only known by trying
	}
	if cause == nil && c != nil {
		for owner, answer := range s.asked {
			if n.addr.IsValid() && (answer == "" || again(answer)) {
				return refuse(ErrOwner, "look after that host, or run `weft host rm` if it is gone for good",
					"%s of %s belongs to host %s, which does not answer", n.addr, p.id.subnet, c.Name(owner))
			}
		}
	}
	if cause == nil && !n.addr.IsValid() && p.book.own.Unowned(n.rng) == 0 {
		none := exhausted(p, n.rng)
		var who []string
		owners := p.book.own.Owners(n.rng)
		for _, h := range slices.SortedFunc(maps.Keys(owners), func(a, b ownership.Host) int {
			return cmp.Or(cmp.Compare(owners[b], owners[a]), cmp.Compare(a, b))
		}) {
			who = append(who, fmt.Sprintf("%s %d", c.Name(h), owners[h]))
		}
		if refused, ok := errors.AsType[*Error](none); ok && len(who) > 0 {
			return refuse(refused.Err, refused.Do, "%s; owners: %s", refused.What, strings.Join(who, ", "))
		}
		return none
	}
	what := fmt.Sprintf("an address of %s", p.id.subnet)
	if n.addr.IsValid() {
		what = fmt.Sprintf("%s of %s", n.addr, p.id.subnet)
	}
	if cause == nil {
		cause = errors.New("it was not granted in time")
	}
	return refuse(ErrStore, "look at `weft store status`; addresses that this host owns already can be used meanwhile (weft ipam)",
		"%s, which this host does not own: %v", what, cause)
}

// end takes back what the request wished and did not get.
func (s *seek) end() {
	if s.shared.IsValid() {
		s.m.mu.Lock()
		defer s.m.mu.Unlock()
		s.unshare()
	}
}

// unshare takes back the wish for a shared address, unless it is held as one. The
// caller holds mu.
func (s *seek) unshare() {
	if !s.shared.IsValid() {
		return
	}
	if h := s.share.book.held[s.shared]; h == nil || h.kind == KindEndpoint {
		s.share.own.Share(s.shared, "", false)
		s.m.poke()
	}
}
