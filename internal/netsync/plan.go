package netsync

import (
	"github.com/weft-net/weft/internal/directory"
	"github.com/weft-net/weft/internal/engine"
)

// A State is how a network of the cluster is on this host.
type State string

// States.
const (
	Present  State = "present"
	Absent   State = "absent"   // a user removed it here, or nobody has described it
	Conflict State = "conflict" // the engine has another network of its name
	Creating State = "creating" // it is about to be here
	Removed  State = "removed"  // everywhere, and hosts have still to take it down
)

// Local is a network of this host that belongs to the cluster.
type Local struct {
	// ID is the engine's, UUID the cluster's.
	ID, UUID string
	// Endpoints counts the containers on it.
	Endpoints int
	// Listed is the state of itself in which the engine listed the network last; empty if
	// it never did.
	Listed string
	// Lost says that the engine does not know it any more.
	Lost bool
}

// facts are what a comparison looks at. The local networks were read first: what the
// engine has beyond them may be of a moment later.
type facts struct {
	networks []engine.Network
	records  []directory.Network
	local    []Local
	absent   map[string]bool // by UUID
	// engine is the state of the engine's own: another one has forgotten everything.
	engine string
}

// A verb is what to do about a difference.
type verb string

const (
	claim    verb = "describe"   // tell the cluster name and description of a local network
	create   verb = "create"     // what the cluster has
	adopt    verb = "adopt"      // let a local network be the one that has its name
	replace  verb = "replace"    // remove a local network, to create the one that has its name
	takeDown verb = "take down"  // a network that was removed everywhere
	drop     verb = "clean away" // a network that the engine lost
	part     verb = "part from"  // a network that a user removed while weft did not run
)

// action is one thing to do.
type action struct {
	verb
	record directory.Network // of the cluster's network
	local  Local             // of this host's, but for create
	net    engine.Network    // the engine's, for claim and adopt
}

// condition is a state with its reason.
type condition struct {
	State State
	Why   string
}

// outcome is what follows from facts.
type outcome struct {
	todo   []action
	states map[string]condition // by UUID
	forget []string             // marks of absence of networks that are gone
}

// planner is one comparison under way.
type planner struct {
	facts
	outcome
	byID   map[string]engine.Network
	byUUID map[string]Local
	known  map[string]directory.Network
	names  map[string]directory.Network // those that were not removed
}

// plan compares.
func plan(f facts) outcome {
	p := &planner{facts: f, byID: map[string]engine.Network{}, byUUID: map[string]Local{},
		known: map[string]directory.Network{}, names: map[string]directory.Network{}}
	p.states = map[string]condition{}
	for _, n := range f.networks {
		p.byID[n.ID] = n
	}
	for _, l := range f.local {
		p.byUUID[l.UUID] = l
	}
	for _, r := range f.records {
		p.known[r.UUID] = r
		if r.Name != "" && !r.Removed {
			p.names[r.Name] = r
		}
	}
	for _, l := range f.local {
		p.ofHost(l)
	}
	for _, r := range f.records {
		p.ofCluster(r)
	}
	for uuid := range f.absent {
		if _, ok := p.known[uuid]; !ok {
			p.forget = append(p.forget, uuid)
		}
	}
	return p.outcome
}

func (p *planner) do(v verb, r directory.Network, l Local) {
	p.todo = append(p.todo, action{verb: v, record: r, local: l, net: p.byID[l.ID]})
}

func (p *planner) is(uuid string, s State, why string) { p.states[uuid] = condition{s, why} }

// ofHost decides about a network of this host.
func (p *planner) ofHost(l Local) {
	r, known := p.known[l.UUID]
	n, has := p.byID[l.ID]
	switch {
	case known && r.Removed:
		p.is(l.UUID, Removed, "")
		p.do(takeDown, r, l)
	case !has && l.Lost && l.Endpoints > 0:
		p.is(l.UUID, Present, "the engine does not know it any more") // until its endpoints are found to be leaked
	case !has && l.Lost && l.Listed != "" && l.Listed == p.engine:
		p.is(l.UUID, Absent, "")
		p.do(part, r, l)
	case !has && l.Lost:
		p.is(l.UUID, Creating, "the engine lost it")
		p.do(drop, r, l)
	case !has || !known || n.OfSwarm():
		p.is(l.UUID, Present, "") // it is being made, or the directory hears of it soon
	case r.Name != "" && len(r.Spec) > 0:
		p.is(l.UUID, Present, "")
	case r.Name != "":
		p.is(l.UUID, Present, "")
		p.do(claim, r, l)
	default:
		p.nameless(l, r, n)
	}
}

// nameless decides about a network of this host that has no name in the cluster.
func (p *planner) nameless(l Local, r directory.Network, n engine.Network) {
	winner, taken := p.names[n.Name]
	_, both := p.byUUID[winner.UUID]
	switch {
	case !taken:
		p.is(l.UUID, Present, "")
		p.do(claim, r, l)
	case both && l.Endpoints > 0:
		p.is(l.UUID, Conflict, "the engine has another network of this name, which is the cluster's: disconnect the containers of this one")
	case both:
		p.is(l.UUID, Removed, "the engine has another network of this name, which is the cluster's")
		p.do(replace, winner, l)
	case winner.Agrees(r):
		p.is(l.UUID, Present, "")
		p.is(winner.UUID, Creating, "")
		p.do(adopt, winner, l)
	case l.Endpoints > 0:
		p.is(l.UUID, Conflict, "the cluster has another network of this name: it is created here when containers left this one")
		p.is(winner.UUID, Conflict, "this host has another network of this name, and containers on it: disconnect them")
	case len(winner.Spec) == 0:
		p.is(l.UUID, Conflict, "the cluster has another network of this name")
		p.is(winner.UUID, Conflict, "this host has another network of this name")
	default:
		p.is(l.UUID, Removed, "the cluster has another network of this name")
		p.is(winner.UUID, Creating, "")
		p.do(replace, winner, l)
	}
}

// ofCluster decides about a network that the cluster knows, and this host may lack.
func (p *planner) ofCluster(r directory.Network) {
	_, decided := p.states[r.UUID]
	switch {
	case decided:
	case r.Removed:
		p.is(r.UUID, Removed, "")
	case p.absent[r.UUID]:
		p.is(r.UUID, Absent, "removed here; create it by its name to have it back")
	case r.Name == "":
		p.is(r.UUID, Absent, "its host has not told its name yet")
	case p.taken(r.Name):
		p.is(r.UUID, Conflict, "the engine has another network of this name")
	case len(r.Spec) == 0:
		p.is(r.UUID, Absent, "no host with a Docker API has described it yet; -o net="+r.Name+" creates it")
	default:
		p.is(r.UUID, Creating, "")
		p.do(create, r, Local{})
	}
}

// taken reports whether the engine has a network of a name.
func (p *planner) taken(name string) bool {
	for _, n := range p.networks {
		if n.Name == name {
			return true
		}
	}
	return false
}
