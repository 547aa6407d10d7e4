package directory

import (
	"bytes"
	"encoding/json"
	"slices"
	"strings"
	"time"

	"github.com/weft-net/weft/internal/journal"
	"github.com/weft-net/weft/internal/ownership"
	"github.com/weft-net/weft/internal/store"
)

// Names have to be answered after a start without the store as well. So the journal also
// keeps what the other hosts told of their endpoints that have names, as the store had it.
// Unlike where hosts are, this can mislead: an address may have moved since. So it is for
// names alone, which have nothing better then, and never for a kernel; and
// [Directory.AsOf] says how old it is.

// bucketEndpoints has records of the store by their keys, and bucketAsOf when they were
// certainly what the store said, under asOfKey.
const (
	bucketEndpoints = "directory-endpoints"
	bucketAsOf      = "directory-asof"
	asOfKey         = "at"
)

// mostKept bounds what is kept of all networks together, in bytes: some 16,000 endpoints.
// What is beyond is not known after a start without the store.
const mostKept = 4 << 20

// noteEvery is how old the journal's time may become while the store answers. When the
// store does not, it is brought up to date at once.
const noteEvery = 10 * time.Minute

// asOf is the journal's record of a time.
type asOf struct {
	Version int       `json:"v"`
	At      time.Time `json:"at"`
}

// LastKnown returns what [Directory.Endpoints] does, and as long as [Directory.Follows] is
// false also the endpoints of other hosts that an earlier run knew and that had names. It is
// for names, and not for where to send anything.
func (d *Directory) LastKnown(uuid string) []Endpoint {
	d.mu.Lock()
	defer d.mu.Unlock()
	a := d.attended[uuid]
	out := d.endpoints(a)
	if a == nil || a.synced {
		return out
	}
	newer := a.all()
	for _, key := range sorted(d.memory.records) {
		if _, seen := newer[key]; seen || !strings.HasPrefix(key, prefixEndpoints+uuid+"/") {
			continue
		}
		e, err := parseEndpoint(store.KV{Key: key, Value: d.memory.records[key], Rev: oldest})
		if err == nil && !d.hosts[e.Host].Removed {
			out = append(out, e)
		}
	}
	return out
}

// AsOf says how new is what is known of endpoints: current is true if it is what the store
// says now. Else it is what the store said at the given time, or later; the zero time says
// that nothing is known.
func (d *Directory) AsOf() (at time.Time, current bool) {
	up := d.cfg.Cluster.Up()
	d.mu.Lock()
	defer d.mu.Unlock()
	return d.memory.asOf, len(d.attended) == 0 || d.current(up)
}

// current reports whether everything that is attended was seen, on a store that answers
// now. The caller holds mu.
func (d *Directory) current(up bool) bool {
	for _, a := range d.attended {
		up = up && a.synced
	}
	return up
}

// recallRecords reads what an earlier run kept. A record that cannot be read is left out.
func (d *Directory) recallRecords() error {
	d.memory.records = map[string][]byte{}
	err := d.cfg.Journal.Each(bucketEndpoints, func(key string, value []byte) error {
		d.memory.records[key] = slices.Clone(value)
		if _, err := parseEndpoint(store.KV{Key: key, Value: value, Rev: oldest}); err != nil {
			d.cfg.Logger.Warn("the journal's record of another host's endpoint cannot be read: its names are not known until the store is read", "record", key, "err", err)
		}
		return nil
	})
	if err != nil {
		return err
	}
	return d.cfg.Journal.Each(bucketAsOf, func(_ string, value []byte) error {
		var rec asOf
		if err := json.Unmarshal(value, &rec); err != nil || rec.Version != recordVersion {
			d.cfg.Logger.Warn("the journal's time of what it has of other hosts cannot be read", "version", rec.Version, "err", err)
			return nil
		}
		d.memory.asOf, d.memory.asOfKept = rec.At, rec.At
		return nil
	})
}

// unkept is what makes the journal's records those that are known, and what it has then. Of
// a network that was not seen yet it keeps what it has, and of too much what it had before.
// Calls of the engine may wait for this, so it looks into no record that it knows. The caller
// holds mu.
func (d *Directory) unkept(me ownership.Host) (ops []journal.Op, next map[string][]byte) {
	have := d.memory.records
	next = make(map[string][]byte, len(have))
	left := mostKept
	keep := func(key string, value []byte) {
		size := len(key) + len(value)
		if size > left {
			return
		}
		next[key] = value
		left -= size
		if !bytes.Equal(value, have[key]) {
			ops = append(ops, journal.Put(bucketEndpoints, key, json.RawMessage(value)))
		}
	}
	for key, value := range have {
		uuid, _, _ := strings.Cut(strings.TrimPrefix(key, prefixEndpoints), "/")
		if a := d.attended[uuid]; a != nil && !a.synced {
			keep(key, value)
		}
	}
	for _, before := range []bool{true, false} {
		for uuid, a := range d.attended {
			if !a.synced {
				continue
			}
			own := hostKeys(uuid, me)
			for key, kv := range a.all() {
				was, kept := have[key]
				if kept == before && !strings.HasPrefix(key, own) && (bytes.Equal(kv.Value, was) || hasNames(kv.Value)) {
					keep(key, kv.Value)
				}
			}
		}
	}
	for key := range have {
		if _, still := next[key]; !still {
			ops = append(ops, journal.Delete(bucketEndpoints, key))
		}
	}
	return ops, next
}

// hasNames reports whether a record is of an endpoint that has names, which the others lack
// altogether.
func hasNames(record []byte) bool {
	return bytes.Contains(record, []byte(`"names":`)) && json.Valid(record)
}

// noteTime takes note of how new the knowledge is, and reports whether the journal is to
// learn of it. The caller holds mu.
func (d *Directory) noteTime(up bool, now time.Time) bool {
	m := &d.memory
	if d.current(up) {
		m.asOf = now
	}
	behind := m.asOf.Sub(m.asOfKept)
	return behind >= noteEvery || !up && behind > 0
}
