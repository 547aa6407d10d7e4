package cluster

import (
	"encoding/json"
	"net/netip"
	"slices"

	"github.com/weft-net/weft/internal/ownership"
	"github.com/weft-net/weft/internal/store"
)

// recordVersion is the version of the records that this package writes.
const recordVersion = 1

// Keys of the store. Below them is the id of a host.
const (
	keyCluster   = "cluster"
	prefixSelf   = "self/"  // Self: which run of a host is the valid one; tombstones
	prefixHosts  = "hosts/" // Host: what others want to know about a host
	prefixAlive  = "alive/" // on a lease: the host is connected
	prefixBack   = "back/"  // Back: a host has told a restored store what it owns
	prefixAsks   = "ask/"   // ownership.Ask, by the owner's id
	prefixPools  = "pools/" // poolRecord, by domain and subnet
	prefixOwners = "own/"   // ownership.Record, by the pool's UUID and chunk
	prefixReach  = "reach/" // question, by the id of the host that it is about; below it reached, by host
	keyIndex     = "index"  // changes with the set of pools
)

// Phase is what the cluster as a whole may do.
type Phase string

// The phases.
const (
	// PhaseOK: everything.
	PhaseOK Phase = "ok"
	// PhaseFrozen: a host saw that the store was restored or wiped; nothing changes
	// its owner until an operator says `weft store recover`.
	PhaseFrozen Phase = "frozen"
	// PhaseRecovering: every host tells the store what it owns; the cluster goes on
	// when all have.
	PhaseRecovering Phase = "recovering"
)

// Record is the cluster's own record.
type Record struct {
	Version int    `json:"v"`
	UUID    string `json:"uuid"`
	Epoch   int    `json:"epoch"`
	Phase   Phase  `json:"phase"`
	// Why says why the cluster is frozen, and who found out.
	Why string `json:"why,omitempty"`
	// Waits are the hosts that have to come back before a recovery ends.
	Waits []ownership.Host `json:"waits,omitempty"`
}

// Self says which run of a host is the valid one.
type Self struct {
	Version int `json:"v"`
	// Incarnation counts the starts; Nonce tells two that counted alike apart.
	Incarnation int    `json:"incarnation"`
	Nonce       string `json:"nonce"`
	// Removed is the tombstone of a host that an operator removed.
	Removed bool   `json:"removed,omitempty"`
	Name    string `json:"name,omitempty"`
}

// Host is what others want to know about a host.
type Host struct {
	Version int    `json:"v"`
	Name    string `json:"name"`
	// Address is the one by which other hosts reach it, if known.
	Address netip.Addr `json:"address,omitzero"`
	// Port is the UDP port of its tunnels; 0 in a record that does not say.
	Port uint16 `json:"port,omitempty"`
	// Routes are the subnets that it reaches directly; dynamic pools avoid them.
	Routes []netip.Prefix `json:"routes,omitempty"`
}

func encode(v any) []byte {
	b, err := json.Marshal(v)
	if err != nil {
		panic("a record of plain fields does not encode: " + err.Error()) // it cannot happen
	}
	return b
}

// decode reads a record of any of the types above; an absent one is the zero value.
func decode[T any](kv store.KV) (T, error) { return ownership.DecodeRecord[T](kv, recordVersion) }

// Identity is who this host is and what it last knew of its store. The journal
// keeps it.
type Identity struct {
	ID ownership.Host `json:"id"`
	// Machine is the one on which the id was made.
	Machine Fingerprint `json:"machine,omitzero"`
	// UUID and Epoch are the cluster's; UUID is empty before the first contact.
	UUID  string `json:"uuid,omitempty"`
	Epoch int    `json:"epoch,omitempty"`
	// Incarnation and Nonce are this host's valid ones, Next the nonce that is about
	// to become valid.
	Incarnation int    `json:"incarnation,omitempty"`
	Nonce       string `json:"nonce,omitempty"`
	Next        string `json:"next,omitempty"`
	// Seen is the highest revision of the store that was seen.
	Seen int64 `json:"seen,omitempty"`
	// Known are the other hosts of the cluster, and Removed those of them that an
	// operator removed.
	Known   []ownership.Host `json:"known,omitempty"`
	Removed []ownership.Host `json:"removed,omitempty"`
	// Names are those of the known hosts, for a store that forgets them.
	Names map[ownership.Host]string `json:"names,omitempty"`
}

// Meets says that a host is known, and whether it was removed. It reports whether
// that is news.
func (id *Identity) Meets(h ownership.Host, removed bool) bool {
	news := false
	if !slices.Contains(id.Known, h) {
		id.Known = append(id.Known, h)
		news = true
	}
	if removed && !slices.Contains(id.Removed, h) {
		id.Removed = append(id.Removed, h)
		news = true
	}
	return news
}
