package directory

import (
	"context"
	"maps"
	"slices"
	"strings"
	"time"

	"github.com/weft-net/weft/internal/cluster"
	"github.com/weft-net/weft/internal/store"
)

// A store that was wiped, or restored from a backup, lacks records of endpoints that are
// there. Containers must go on to reach each other until their hosts have told the store
// again. So what hosts told and the store lacks is doubted first, and counts, as
// long as the store is not known to be the one that all of this is in; and for a while
// after a recovery, in which each host tells of its endpoints.

// tellTime is how long after a recovery every host has told of its endpoints.
const tellTime = 30 * time.Second

// take takes a watch's news over. What is gone is doubted, but for what this host withdrew;
// mine is what the keys of its own records begin with.
func (a *attended) take(u store.Update, mine string) {
	before := a.seen
	if u.Reset || len(u.Deletes) > 0 {
		before = maps.Clone(a.seen)
	}
	apply(a.seen, u)
	a.listed = a.listed || u.Reset
	if u.Reset || len(u.Deletes) > 0 {
		for key, kv := range before {
			id, own := strings.CutPrefix(key, mine)
			_, wanted := a.want[id]
			if _, still := a.seen[key]; !still && (!own || wanted) {
				a.doubted[key] = kv
			}
		}
	}
	for key := range a.doubted {
		if _, again := a.seen[key]; again {
			delete(a.doubted, key)
		}
	}
}

// touches reports whether a watch's news are of keys that begin with prefix.
func touches(u store.Update, prefix string) bool {
	begins := func(kv store.KV) bool { return strings.HasPrefix(kv.Key, prefix) }
	return u.Reset || slices.ContainsFunc(u.Puts, begins) || slices.ContainsFunc(u.Deletes, begins)
}

// oldest is before the revision of any endpoint: the records of hosts come first.
const oldest = 1

// all are the records that count, by key. Those that are doubted are the oldest, so that any
// other record of their address counts instead. The result is for reading.
func (a *attended) all() map[string]store.KV {
	if len(a.doubted) == 0 {
		return a.seen
	}
	out := maps.Clone(a.seen)
	for key, kv := range a.doubted {
		kv.Rev = oldest
		out[key] = kv
	}
	return out
}

// resolve forgets what is doubted, and believes in what was listed, as soon as the store is
// known to be that of this cluster. The question is asked after the news came, so it cannot
// be answered by what was before.
func (d *Directory) resolve(ctx context.Context) {
	epoch := d.cfg.Cluster.Epoch()
	recovered := d.epoch != 0 && d.epoch != epoch // as a whole since the last look
	d.epoch = epoch
	switch d.cfg.Cluster.Verdict().Standing {
	case cluster.Freezing, cluster.Frozen, cluster.Recovering:
		recovered = true
	default:
	}
	if recovered {
		d.thawed = d.cfg.Now().Add(tellTime)
		return
	}
	doubted := d.doubts()
	if len(doubted) == 0 || d.cfg.Cluster.Ready() != nil || d.cfg.Now().Before(d.thawed) {
		return
	}
	ctx, cancel := context.WithTimeout(ctx, changeTime)
	defer cancel()
	if res, err := d.cfg.Cluster.Change(ctx, store.Txn{}); err != nil || !res.OK || d.cfg.Cluster.Epoch() != epoch {
		return // it is tried again
	}
	for uuid, asked := range doubted {
		d.mu.Lock()
		if a := d.attended[uuid]; a == asked.of { // and not forsaken and attended again meanwhile
			for key, rev := range asked.revs {
				if a.doubted[key].Rev == rev {
					delete(a.doubted, key)
				}
			}
			a.synced = true
		}
		d.memory.behind = true
		d.mu.Unlock()
		d.cfg.OnChange(uuid)
	}
}

// doubts are what is doubted of a network, as of one moment.
type doubts struct {
	of   *attended
	revs map[string]int64 // of the records, by key
}

// doubts are those of all networks. One that was listed and not believed in yet is among them,
// without a record.
func (d *Directory) doubts() map[string]doubts {
	d.mu.Lock()
	defer d.mu.Unlock()
	out := map[string]doubts{}
	for uuid, a := range d.attended {
		if len(a.doubted) == 0 && (a.synced || !a.listed) {
			continue
		}
		out[uuid] = doubts{a, map[string]int64{}}
		for key, kv := range a.doubted {
			out[uuid].revs[key] = kv.Rev
		}
	}
	return out
}
