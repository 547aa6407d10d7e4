package directory

import (
	"errors"
	"fmt"
	"time"

	"github.com/weft-net/weft/internal/store"
)

// patience is how long the store may refuse something before a person is to know: what is
// only in the way of something else is over by then.
const patience = 10 * time.Second

// untold is why the store does not learn of a network here what it should.
type untold struct {
	err    error
	since  time.Time
	logged bool
}

// note takes note of an attempt to tell the store of a network. A store that is down is no
// news about it, nor is a change that comes to be made at the next try.
func (d *Directory) note(uuid string, err error) {
	if errors.Is(err, store.ErrDown) || errors.Is(err, errAgain) {
		return
	}
	now := d.cfg.Now()
	d.mu.Lock()
	defer d.mu.Unlock()
	if err == nil {
		delete(d.untold, uuid)
		return
	}
	u := d.untold[uuid]
	if u.err == nil {
		u.since = now
	}
	u.err = err
	if now.Sub(u.since) >= patience && !u.logged {
		u.logged = true
		d.cfg.Logger.Warn("the store does not take what this host has to tell of a network: it is tried again, and the other hosts know less of its containers", "network", uuid, "err", err)
	}
	d.untold[uuid] = u
}

// Troubles say what the store has refused for a while, one sentence for each network.
func (d *Directory) Troubles() []string {
	now := d.cfg.Now()
	var out []string
	d.mu.Lock()
	defer d.mu.Unlock()
	for _, uuid := range sorted(d.untold) {
		if u := d.untold[uuid]; now.Sub(u.since) >= patience {
			name := uuid
			if n := d.nets[uuid].net.Name; n != "" {
				name = n
			}
			out = append(out, fmt.Sprintf("network %s: the store does not take what this host has to tell of it, so the other hosts know less of its containers: %v", name, u.err))
		}
	}
	return out
}
