package ownership

import (
	"errors"
	"slices"

	"github.com/weft-net/weft/internal/store"
)

// Tasks returns what can be done now, in the order of the addresses. Every task
// that it returns has to be reported back.
func (p *Pool) Tasks() []Task {
	if !p.synced {
		return nil
	}
	var out []Task
	for _, c := range p.order {
		if c.busy || !c.dirty {
			continue // one that is busy is planned when its task is done
		}
		c.dirty = false
		if p.bad[c.first] != nil {
			continue
		}
		if p.closing {
			c.drop = (c.Own | c.Leaving) &^ c.used
			c.take = 0
		}
		if t, ok := p.plan(c); ok && (t.Txn == nil || !c.blocked) {
			c.busy = true
			t.life = p.life
			c.pledge = t.pledge
			out = append(out, t)
		}
	}
	return out
}

// plan says what comes next for a chunk with nothing under way.
func (p *Pool) plan(c *chunk) (Task, bool) {
	switch {
	case p.mode == Frozen:
		return Task{}, false
	case c.unsure:
		return p.put(c, c.rec), true
	case p.mode == Recovering:
		return p.recover(c)
	}
	mine := c.rec.Owned[p.cfg.Me]
	if news := mine &^ (c.Own | c.Leaving); news != 0 {
		return c.write(c.Own|news, c.Leaving), true
	}
	if gone := c.Leaving &^ mine; gone != 0 {
		return c.write(c.Own, c.Leaving&^gone), true
	}
	if c.Own&^mine != 0 {
		return Task{}, false // lost: the driver freezes the cluster
	}
	// An address that came into use since it was to go stays.
	c.drop &= (c.Own | c.Leaving) &^ c.used
	c.grants = slices.DeleteFunc(c.grants, func(g grant) bool { return g.bit&c.used != 0 || g.bit&(c.Own|c.Leaving) == 0 })
	going := c.drop | c.shared()
	for _, g := range c.grants {
		going |= g.bit
	}
	if stays := c.Leaving &^ going; stays != 0 {
		return c.write(c.Own|stays, c.Leaving&^stays), true
	}
	if begins := c.Own & going; begins != 0 {
		t := c.write(c.Own&^begins, c.Leaving|begins)
		t.pledge = begins
		return t, true
	}
	for _, g := range c.grants {
		if g.bit&c.Leaving != 0 {
			return p.give(c, g), true
		}
	}
	return p.change(c)
}

// write makes a task for the journal.
func (c *chunk) write(own, leaving Mask) Task {
	return Task{First: c.first, Entry: &Entry{Own: own, Leaving: leaving}}
}

// put makes a task that replaces the record, if nobody else did.
func (p *Pool) put(c *chunk, next Record) Task {
	key := p.key(c.first)
	return Task{First: c.first, next: next, Txn: &store.Txn{
		If:   []store.Cond{store.Unchanged(key, c.rev)},
		Then: []store.Op{store.Put(key, next.Encode())},
	}}
}

// give makes the task that hands an address over and answers its ask.
func (p *Pool) give(c *chunk, g grant) Task {
	next := c.rec.clone()
	next.strip(g.bit)
	next.setOwned(g.ask.From, next.Owned[g.ask.From]|g.bit)
	t := p.put(c, next)
	t.ask = &g.ask
	t.Txn.If = append(t.Txn.If, store.Unchanged(g.ask.Key, g.ask.Rev))
	t.Txn.Then = append(t.Txn.Then, store.Delete(g.ask.Key))
	return t
}

// change makes the task for everything else that the record needs: addresses that
// go to nobody, that come from nobody, and that are shared.
func (p *Pool) change(c *chunk) (Task, bool) {
	me := p.cfg.Me
	next := c.rec.clone()
	next.strip(c.Leaving)
	shared := c.shared()
	changed := c.Leaving != 0
	for bit := next.sharedBy(me) &^ shared; bit != 0; bit &= bit - 1 {
		next.share(me, bit&-bit, "", false)
		changed = true
	}
	for bit, kind := range c.shares {
		if _, is := next.Shared[bit]; (is || next.living()&bit == 0) && !p.late(c, bit, kind) {
			if next.sharedBy(me)&bit == 0 {
				next.strip(bit & next.dead())
				next.share(me, bit, kind, true)
				changed = true
			}
		}
	}
	c.take &= c.valid &^ next.living() &^ shared
	if c.take != 0 {
		next.strip(c.take)
		next.setOwned(me, next.Owned[me]|c.take)
		changed = true
	}
	if !changed {
		return Task{}, false
	}
	return p.put(c, next), true
}

// recover makes the next task that lets the record say what the journal says. What
// was leaving is given up: who it went to, if anybody, says so too.
func (p *Pool) recover(c *chunk) (Task, bool) {
	if c.Leaving != 0 {
		return c.write(c.Own, 0), true
	}
	shared := p.tellable(c)
	if not := c.Own & (p.others(c) | p.ackedShares(c) | shared); not != 0 {
		t := c.write(c.Own&^not, 0)
		t.pledge = not
		return t, true
	}
	next := c.rec.clone()
	changed := next.Owned[p.cfg.Me] != c.Own
	next.setOwned(p.cfg.Me, 0)
	next.strip(c.Own)
	next.setOwned(p.cfg.Me, c.Own)
	for bit := next.sharedBy(p.cfg.Me) &^ shared; bit != 0; bit &= bit - 1 {
		next.share(p.cfg.Me, bit&-bit, "", false)
		changed = true
	}
	for bit, kind := range c.shares {
		if bit&shared == 0 || next.sharedBy(p.cfg.Me)&bit != 0 {
			continue
		}
		if _, is := next.Shared[bit]; !is {
			next.strip(bit)
		}
		next.share(p.cfg.Me, bit, kind, true)
		changed = true
	}
	if !changed {
		return Task{}, false
	}
	return p.put(c, next), true
}

// ackedShares are the shared addresses of hosts that have told a recovering store.
func (p *Pool) ackedShares(c *chunk) Mask {
	var m Mask
	for bit, s := range c.rec.Shared {
		if slices.ContainsFunc(s.By, func(h Host) bool { return h != p.cfg.Me && p.acked[h] }) {
			m |= bit
		}
	}
	return m
}

// Wrote says that a task's entry is durable.
func (p *Pool) Wrote(t Task) {
	c := p.chunks[t.First]
	c.Entry = *t.Entry
	c.busy, c.pledge = false, 0
	p.touch(c)
}

// Committed says how a task's transaction ended. An error other than
// [store.ErrUnknown] means that it certainly did nothing.
func (p *Pool) Committed(t Task, res store.Result, err error) {
	c := p.chunks[t.First]
	c.busy = false
	p.touch(c)
	if t.life != p.life {
		return
	}
	switch {
	case errors.Is(err, store.ErrUnknown):
		c.unsure, c.blocked = true, true
	case err != nil:
		c.blocked = true
	case res.OK:
		c.unsure = false
		if res.Rev > c.rev {
			c.rec, c.rev = t.next, res.Rev
		}
		if t.ask != nil {
			c.forget(*t.ask)
		}
		c.take &^= c.rec.living()
	default:
		p.refused(c, t, res)
	}
}

// refused learns from the records that made a transaction's conditions fail.
func (p *Pool) refused(c *chunk, t Task, res store.Result) {
	before := c.rev
	key, own := p.key(c.first), store.KV{}
	var ask store.KV
	for _, kv := range res.Now {
		switch {
		case kv.Key == key:
			own = kv
		case t.ask != nil && kv.Key == t.ask.Key:
			ask = kv
		}
	}
	if own.Rev == 0 && res.Rev > c.rev {
		c.rec, c.rev = Record{}, 0
	} else {
		p.Observe(own)
	}
	over := t.ask != nil && ask.Rev != t.ask.Rev
	if over {
		c.forget(*t.ask)
	}
	// The record was as expected: the driver's fence failed. It has to look.
	c.blocked = c.rev == before && t.Txn.If[0].Rev == before && !over
}

func (c *chunk) forget(a Ask) {
	c.grants = slices.DeleteFunc(c.grants, func(g grant) bool { return g.ask.Key == a.Key })
}
