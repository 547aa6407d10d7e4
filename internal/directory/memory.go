package directory

import (
	"context"
	"encoding/json"
	"errors"
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
// it cannot mislead, because it does not say on which of them an address is. What it keeps
// for names is in lastknown.go.

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
	kept    map[string][]netip.Addr // by UUID; the lists are never changed
	records map[string][]byte       // of endpoints, by the store's key
	// behind says that these may differ from what is known; due is when that is looked at,
	// the zero time if that is not planned yet.
	behind bool
	due    time.Time
	// asOf is when what is known was what the store said, asOfKept what the journal has of
	// it.
	asOf, asOfKept time.Time
}

// recall reads what an earlier run remembered. A record that cannot be read is as none:
// the store replaces it anyway.
func (d *Directory) recall() {
	d.memory = memory{kept: map[string][]netip.Addr{}, behind: true, asOfKept: d.cfg.Now()}
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
	if err = errors.Join(err, d.recallRecords()); err != nil {
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
	me, up, now := d.cfg.Cluster.Me(), d.cfg.Cluster.Up(), d.cfg.Now()
	d.mu.Lock()
	next, ops := d.overdue(me, up, now)
	d.mu.Unlock()
	if len(ops) == 0 {
		return
	}
	ctx, cancel := context.WithTimeout(ctx, changeTime)
	defer cancel()
	err := d.cfg.Journal.Commit(ctx, ops...)
	d.mu.Lock()
	defer d.mu.Unlock()
	d.memory.due = time.Time{}
	if err != nil {
		d.memory.behind = true
		d.cfg.Logger.Debug("remember other hosts", "err", err)
		return // it is tried again
	}
	d.memory.kept, d.memory.records, d.memory.asOfKept = next.kept, next.records, next.asOfKept
}

// overdue is what the journal is to have now, and what makes it so. The caller holds mu.
func (d *Directory) overdue(me ownership.Host, up bool, now time.Time) (next memory, ops []journal.Op) {
	m := &d.memory
	next = *m
	switch {
	case !m.behind:
	case m.due.IsZero():
		m.due = now.Add(rememberAfter)
	case !now.Before(m.due):
		m.behind, m.due = false, time.Time{}
		peers, kept := d.unwritten(me)
		records, known := d.unkept(me)
		next.kept, next.records, ops = kept, known, slices.Concat(peers, records)
	}
	if d.noteTime(up, now) || len(ops) > 0 {
		next.asOfKept, ops = m.asOf, append(ops, journal.Put(bucketAsOf, asOfKey, asOf{recordVersion, m.asOf}))
	}
	return next, ops
}

// unwritten is what makes the journal say where other hosts are, and what it says then. Of a
// network that was not seen yet it keeps what it has. The caller holds mu.
func (d *Directory) unwritten(me ownership.Host) (ops []journal.Op, next map[string][]netip.Addr) {
	next = make(map[string][]netip.Addr)
	for uuid, a := range d.attended {
		have := d.memory.kept[uuid]
		want := have
		if a.synced {
			want = peersOf(a.all(), d.hosts, me)
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
