package netsync

import (
	"time"

	"github.com/weft-net/weft/internal/directory"
)

// View is a network of the cluster as this host has it.
type View struct {
	directory.Network
	// State is how it is here, Why the reason, if there is one to tell. An empty state
	// means that nobody has looked.
	State State
	Why   string
}

// Networks lists the networks of the cluster. One whose name is not known yet has that
// of this host's engine.
func (a *Agent) Networks() []View {
	all := a.cfg.Directory.Networks()
	a.mu.Lock()
	defer a.mu.Unlock()
	out := make([]View, 0, len(all))
	for _, n := range all {
		if n.Name == "" {
			n.Name = a.names[n.UUID]
		}
		c := a.states[n.UUID]
		out = append(out, View{Network: n, State: c.State, Why: c.Why})
	}
	return out
}

// Problem says why this host's networks are not kept in step; empty if they are.
func (a *Agent) Problem() string {
	a.mu.Lock()
	defer a.mu.Unlock()
	return a.problem
}

// idle notes why nothing is done.
func (a *Agent) idle(err error) {
	here := make(map[string]condition)
	for _, l := range a.cfg.Host.Shared() {
		here[l.UUID] = condition{State: Present}
	}
	a.mu.Lock()
	defer a.mu.Unlock()
	if a.problem == "" {
		a.since = a.cfg.Now()
	}
	a.problem, a.states = err.Error(), here
	if !a.since.IsZero() && a.cfg.Now().Sub(a.since) >= tellAfter {
		a.since = time.Time{}
		a.cfg.Logger.Warn("networks are not kept in step with the cluster for now", "why", err)
	}
}

// show notes what a comparison found.
func (a *Agent) show(f facts, out outcome) {
	names := make(map[string]string)
	for _, l := range f.local {
		for _, n := range f.networks {
			if n.ID == l.ID {
				names[l.UUID] = n.Name
			}
		}
	}
	for key, t := range a.troubles {
		if c, ok := out.states[key.uuid]; ok && t.text != "" {
			c.Why = t.text
			out.states[key.uuid] = c
		}
	}
	a.mu.Lock()
	told := a.problem != "" && a.since.IsZero()
	a.problem, a.states, a.names = "", out.states, names
	a.mu.Unlock()
	if told {
		a.cfg.Logger.Info("networks are kept in step with the cluster again")
	}
}
