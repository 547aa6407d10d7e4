package directory

import (
	"context"
	"encoding/json"
	"maps"
	"net/netip"
	"slices"
	"strings"
	"time"

	"github.com/weft-net/weft/internal/cluster"
	"github.com/weft-net/weft/internal/journal"
	"github.com/weft-net/weft/internal/ownership"
	"github.com/weft-net/weft/internal/store"
)

// A host that starts while the store is away knows nobody. So the journal keeps, of each
// attended network, where the other hosts are that have endpoints on it. That is enough
// to reach every container, because what has no entry goes to all hosts of a network; and
// it cannot mislead, because it does not say on which of them an address is.

// bucketPeers has a [peers] for each network, by UUID.
const bucketPeers = "directory-peers"

// rememberAfter is how far the journal may be behind: what changes meanwhile is one write.
const rememberAfter = time.Second

// mostPeers bounds what is remembered of one network: some 20 bytes for each host of the
// largest cluster that weft is made for.
const mostPeers = 1000

// Journal is what remembers over a restart; see package journal.
type Journal interface {
	Commit(ctx context.Context, ops ...journal.Op) error
	Each(bucket string, fn func(key string, value []byte) error) error
}

// peers is the journal's record of one network.
type peers struct {
	Version int          `json:"v"`
	VTEPs   []netip.Addr `json:"vteps"`
}

// memory is what the journal has, and when it is to be written.
type memory struct {
	kept map[string][]netip.Addr // by UUID; the lists are never changed
	// behind says that kept may differ from what is known; due is when that is written,
	// the zero time if no difference was found yet.
	behind bool
	due    time.Time
}

// recall reads what an earlier run remembered. A record that cannot be read is as none:
// the store replaces it anyway.
func (d *Directory) recall() {
	d.memory = memory{kept: map[string][]netip.Addr{}, behind: true}
	if d.cfg.Journal == nil {
		return
	}
	err := d.cfg.Journal.Each(bucketPeers, func(uuid string, value []byte) error {
		var p peers
		if err := json.Unmarshal(value, &p); err != nil || p.Version != recordVersion {
			d.cfg.Logger.Warn("the journal's record of other hosts cannot be read", "network", uuid, "version", p.Version, "err", err)
			return nil
		}
		d.memory.kept[uuid] = p.VTEPs
		return nil
	})
	if err != nil {
		d.cfg.Logger.Warn("what was known of other hosts before the start", "err", err)
	}
}

// Remembered are the underlay addresses of the other hosts that had endpoints on a
// network when this host last knew. It is old news, and none as soon as
// [Directory.Follows] is true.
func (d *Directory) Remembered(uuid string) []netip.Addr {
	d.mu.Lock()
	defer d.mu.Unlock()
	if a := d.attended[uuid]; a == nil || a.synced {
		return nil
	}
	return slices.Clone(d.memory.kept[uuid])
}

// remember lets the journal follow what is known, some time after it changed.
func (d *Directory) remember(ctx context.Context) {
	if d.cfg.Journal == nil {
		return
	}
	me, now := d.cfg.Cluster.Me(), d.cfg.Now()
	d.mu.Lock()
	if !d.memory.behind {
		d.mu.Unlock()
		return
	}
	ops, next := d.unwritten(me)
	switch {
	case len(ops) == 0:
		d.memory.behind, d.memory.due = false, time.Time{}
	case d.memory.due.IsZero():
		d.memory.due = now.Add(rememberAfter)
	}
	wait := now.Before(d.memory.due)
	d.mu.Unlock()
	if len(ops) == 0 || wait {
		return
	}
	ctx, cancel := context.WithTimeout(ctx, changeTime)
	defer cancel()
	err := d.cfg.Journal.Commit(ctx, ops...)
	d.mu.Lock()
	defer d.mu.Unlock()
	d.memory.due = time.Time{}
	if err != nil {
		d.cfg.Logger.Debug("remember other hosts", "err", err)
		return // it is tried again
	}
	d.memory.kept = next
}

// unwritten is what makes the journal say what is known, and what it says then. Of a
// network that was not seen yet it keeps what it has. The caller holds mu.
func (d *Directory) unwritten(me ownership.Host) (ops []journal.Op, next map[string][]netip.Addr) {
	next = make(map[string][]netip.Addr)
	for uuid, a := range d.attended {
		have := d.memory.kept[uuid]
		want := have
		if a.synced {
			want = peersOf(a.seen, d.hosts, me)
		}
		if len(want) == 0 {
			continue
		}
		next[uuid] = want
		if !slices.Equal(want, have) {
			ops = append(ops, journal.Put(bucketPeers, uuid, peers{recordVersion, want}))
		}
	}
	for uuid := range d.memory.kept {
		if next[uuid] == nil {
			ops = append(ops, journal.Delete(bucketPeers, uuid))
		}
	}
	return ops, next
}

// peersOf are the addresses of the other hosts that have endpoints, sorted; at most
// mostPeers.
func peersOf(seen map[string]store.KV, hosts map[ownership.Host]cluster.HostView, me ownership.Host) []netip.Addr {
	found := make(map[netip.Addr]bool)
	for key := range seen {
		_, rest, _ := strings.Cut(strings.TrimPrefix(key, prefixEndpoints), "/") // after the network
		id, _, _ := strings.Cut(rest, "/")
		h := hosts[ownership.Host(id)]
		if ownership.Host(id) != me && h.Address.IsValid() && !h.Removed {
			found[h.Address] = true
		}
	}
	all := slices.SortedFunc(maps.Keys(found), netip.Addr.Compare)
	return all[:min(len(all), mostPeers)]
}
