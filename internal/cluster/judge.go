package cluster

import (
	"cmp"
	"fmt"
	"slices"

	"github.com/weft-net/weft/internal/ownership"
	"github.com/weft-net/weft/internal/store"
)

// Standing is what this host may do in the cluster.
type Standing string

// The standings.
const (
	// Apart: the store was not seen yet, or says nothing of use. Own addresses are
	// handed out.
	Apart Standing = "apart"
	// Unreadable: a record of the cluster is of a newer version or damaged. Own addresses
	// are handed out.
	Unreadable Standing = "unreadable"
	// Founding: the store is new and so is this host's knowledge: make the cluster.
	Founding Standing = "founding"
	// Raising: this run has to become the valid one first.
	Raising Standing = "raising"
	// Member: everything.
	Member Standing = "member"
	// Frozen: own addresses only, until `weft store recover`.
	Frozen Standing = "frozen"
	// Freezing: like Frozen, and the others do not know yet.
	Freezing Standing = "freezing"
	// Recovering: tell the store what this host owns.
	Recovering Standing = "recovering"
	// Waiting: told; others have not.
	Waiting Standing = "waiting"
	// Foreign: WEFT_STORE is another store than the one of this host's pools.
	Foreign Standing = "foreign"
	// Stopped: another run has this host's id. Nothing is handed out.
	Stopped Standing = "stopped"
	// Removed: an operator removed this host, or the cluster recovered without it.
	// It needs a new id.
	Removed Standing = "removed"
)

// Verdict is a standing and the reason for it in words.
type Verdict struct {
	Standing Standing
	Why      string
}

// Sight is what one look at the store saw, all at revision Rev.
type Sight struct {
	Rev     int64
	Cluster store.KV
	Self    store.KV // this host's
	// Back are the hosts that told the store in its last recovery, of its epoch.
	Back []ownership.Host
}

// sightKeys are the keys of a Sight.
func sightKeys(id ownership.Host) (cluster, self string) { return keyCluster, prefixSelf + string(id) }

// Judge says what this host may do. confirmed says that this run raised its
// incarnation already. It is pure.
func Judge(id Identity, s Sight, confirmed bool) (Verdict, error) {
	rec, err := decode[Record](s.Cluster)
	if err != nil {
		return Verdict{Unreadable, err.Error()}, err
	}
	self, err := decode[Self](s.Self)
	if err != nil {
		return Verdict{Unreadable, err.Error()}, err
	}
	if v := judgeCluster(id, s, rec, self.Removed); v.Standing != "" {
		return v, nil
	}
	return judgeRun(id, s, rec, self, confirmed), nil
}

// judgeCluster says what the cluster as a whole lets a host do; nothing if it is in
// order.
func judgeCluster(id Identity, s Sight, rec Record, removed bool) Verdict {
	switch why := restored(id, s, rec); {
	case rec.UUID == "" && id.UUID == "":
		return Verdict{Founding, "the store is new"}
	case rec.UUID == "":
		return Verdict{Frozen, "the store does not know cluster " + id.UUID + ": it was wiped, or WEFT_STORE names another one"}
	case id.UUID != "" && id.UUID != rec.UUID:
		return Verdict{Foreign, fmt.Sprintf("the store is of cluster %s, and this host's networks are of %s: set WEFT_STORE back; or remove the networks, and this host "+
			"joins; or, if the store was wiped and new hosts came first, take them off, delete weft's keys and run `weft store recover` here", rec.UUID, id.UUID)}
	case removed:
		return Verdict{Removed, "this host was removed with `weft host rm`"}
	case rec.Phase == PhaseFrozen:
		return Verdict{Frozen, rec.Why}
	case why != "":
		return Verdict{Freezing, "the store was restored from a backup: " + why}
	case rec.Phase == PhaseRecovering && id.UUID != "" && id.Epoch < rec.Epoch:
		return Verdict{Recovering, rec.Why}
	case rec.Phase == PhaseRecovering:
		return Verdict{Waiting, rec.Why}
	}
	return Verdict{}
}

// restored says by what a host of the cluster knows that the store is older than what
// was seen. Revisions are compared within one epoch only: a recovery may begin with
// lower ones. The backup may have been made during a recovery too.
func restored(id Identity, s Sight, rec Record) string {
	switch {
	case id.Epoch > rec.Epoch:
		return "it is of before a recovery that this host has seen"
	case id.UUID != "" && id.Epoch == rec.Epoch && s.Rev < id.Seen:
		return fmt.Sprintf("it is at revision %d, %d was seen", s.Rev, id.Seen)
	}
	return ""
}

// judgeRun says what a run of a host may do in a cluster that is in order. One that is
// behind an epoch in which it told the store ended before it kept that; it has to
// adopt it.
func judgeRun(id Identity, s Sight, rec Record, self Self, confirmed bool) Verdict {
	behind := id.UUID != "" && id.Epoch < rec.Epoch
	switch {
	case behind && !slices.Contains(s.Back, id.ID):
		return Verdict{Removed, "the cluster's store was recovered without this host"}
	case s.Self.Rev == 0 && id.Nonce != "":
		return Verdict{Freezing, "the store was restored from a backup: it does not know this host"}
	case s.Self.Rev != 0 && (self.Nonce == "" || self.Nonce != id.Nonce && self.Nonce != id.Next):
		return Verdict{Stopped, fmt.Sprintf("another run has this host's id (incarnation %d there, %d here): a copy of this host, or a journal that was put back; "+
			"run `weft host rm --powered-off %s` elsewhere to let this one start anew", self.Incarnation, id.Incarnation, id.ID)}
	case !confirmed || behind:
		return Verdict{Raising, ""}
	}
	return Verdict{Member, ""}
}

// Mode is what the pools of a host may do.
func (s Standing) Mode() ownership.Mode {
	switch s {
	case Member:
		return ownership.Normal
	case Recovering:
		return ownership.Recovering
	default:
		return ownership.Frozen
	}
}

// Allocates reports whether own addresses may be handed out.
func (s Standing) Allocates() bool { return s != Stopped && s != Removed }

// Found is the transaction that makes the cluster.
func Found(uuid string) store.Txn {
	rec := Record{Version: recordVersion, UUID: uuid, Epoch: 1, Phase: PhaseOK}
	return store.Txn{If: []store.Cond{store.Unchanged(keyCluster, 0)}, Then: []store.Op{store.Put(keyCluster, encode(rec))}}
}

// Adopt returns the identity with the cluster's, at the first contact or after a
// recovery.
func Adopt(id Identity, s Sight) (Identity, error) {
	rec, err := decode[Record](s.Cluster)
	if err != nil {
		return id, err
	}
	switch {
	case id.UUID == "":
		id.UUID, id.Epoch = rec.UUID, rec.Epoch
	case id.Epoch < rec.Epoch:
		// It told the recovering store, and ended before it kept that.
		id = Returned(id, rec.Epoch, s.Rev)
	}
	return id, nil
}

// Raise is the transaction that makes this run the valid one. id.Next, durable in
// the journal, is its nonce.
func Raise(id Identity, name string, s Sight) store.Txn {
	self := Self{Version: recordVersion, Incarnation: id.Incarnation + 1, Nonce: id.Next, Name: name}
	_, key := sightKeys(id.ID)
	return store.Txn{
		If:   []store.Cond{store.Unchanged(keyCluster, s.Cluster.Rev), store.Unchanged(key, s.Self.Rev)},
		Then: []store.Op{store.Put(key, encode(self))},
	}
}

// Raised returns the identity after Raise.
func Raised(id Identity) Identity {
	id.Incarnation++
	id.Nonce, id.Next = id.Next, ""
	return id
}

// Freeze is the transaction that stops the whole cluster.
func Freeze(id Identity, s Sight, why string) (store.Txn, error) {
	rec, err := decode[Record](s.Cluster)
	if err != nil {
		return store.Txn{}, err
	}
	rec.Version, rec.Phase, rec.Why = recordVersion, PhaseFrozen, why+" (found by "+string(id.ID)+")"
	rec.Epoch = max(rec.Epoch, id.Epoch) // the next recovery has to be later than what any host has seen
	return store.Txn{
		If:   Fence(id.ID, s), // a host that is being removed may be wrong
		Then: []store.Op{store.Put(keyCluster, encode(rec))},
	}, nil
}

// Recover is the transaction by which the operator lets all hosts tell the store
// what they own. It waits for every host that id knows, that was not removed, and for
// others, which are the hosts that the store itself still knows; and it leaves the
// tombstones of those that were removed, which the backup may lack: a removed host that
// came first would take back what others own by now.
//
// Epochs grow, and no two recoveries have the same one, whatever the stores knew of each
// other: gap, a random number, is left out between them. What was told in one recovery
// counts for nothing in another.
func Recover(id Identity, s Sight, others []ownership.Host, gap int) (store.Txn, error) {
	rec, err := decode[Record](s.Cluster)
	if err != nil {
		return store.Txn{}, err
	}
	waits := slices.Concat(id.Known, rec.Waits, others)
	if id.UUID != "" {
		waits = append(waits, id.ID) // a host that never was a member has nothing to tell
	}
	waits = slices.DeleteFunc(waits, func(h ownership.Host) bool {
		return slices.Contains(id.Removed, h) || id.UUID == "" && h == id.ID
	})
	slices.Sort(waits)
	rec = Record{Version: recordVersion, UUID: cmp.Or(id.UUID, rec.UUID), Epoch: max(id.Epoch, rec.Epoch) + 1 + gap, Phase: PhaseRecovering,
		Why: "`weft store recover` on " + string(id.ID), Waits: slices.Compact(waits)}
	return store.Txn{
		If:   []store.Cond{store.Unchanged(keyCluster, s.Cluster.Rev)},
		Then: append(tombstones(id), store.DeletePrefix(prefixBack), store.Put(keyCluster, encode(rec))),
	}, nil
}

// tombstones are those of the removed hosts that a host knows; of the latest hundred,
// as one transaction takes no more.
func tombstones(id Identity) []store.Op {
	var ops []store.Op
	for _, h := range id.Removed[max(0, len(id.Removed)-100):] {
		ops = append(ops, store.Put(prefixSelf+string(h), encode(Self{Version: recordVersion, Removed: true})))
	}
	return ops
}

// Announce is the transaction by which a host shows a frozen cluster whose store was
// wiped what it lacks: the host's own record, and that there is a cluster, which is
// frozen. A new host that came first would make another cluster of the store, and hand
// out the addresses of this one.
func Announce(id Identity, name string, s Sight, why string) store.Txn {
	txn := store.Txn{If: Fence(id.ID, s)}
	if s.Self.Rev == 0 {
		txn.Then = append(txn.Then, putSelf(id, name))
	}
	if s.Cluster.Rev == 0 {
		rec := Record{Version: recordVersion, UUID: id.UUID, Epoch: id.Epoch, Phase: PhaseFrozen, Why: why + " (found by " + string(id.ID) + ")"}
		txn.Then = append(txn.Then, store.Put(keyCluster, encode(rec)))
	}
	return txn
}

// putSelf puts back the record of the last run that was valid. A host that does not know
// whether its first nonce became valid makes it so.
func putSelf(id Identity, name string) store.Op {
	_, key := sightKeys(id.ID)
	return store.Put(key, encode(Self{Version: recordVersion, Incarnation: id.Incarnation, Nonce: cmp.Or(id.Nonce, id.Next), Name: name}))
}

// Return is the transaction by which a host begins to tell a recovering store: its
// own record and the tombstones that it knows.
func Return(id Identity, name string, s Sight) store.Txn {
	_, key := sightKeys(id.ID)
	return store.Txn{
		If:   []store.Cond{store.Unchanged(keyCluster, s.Cluster.Rev), store.Unchanged(key, s.Self.Rev)},
		Then: append(tombstones(id), putSelf(id, name)),
	}
}

// Back is the transaction that says that a host has told everything.
func Back(id Identity, s Sight) (store.Txn, int, error) {
	rec, err := decode[Record](s.Cluster)
	if err != nil {
		return store.Txn{}, 0, err
	}
	return store.Txn{
		If:   []store.Cond{store.Unchanged(keyCluster, s.Cluster.Rev)},
		Then: []store.Op{store.Put(BackKey(rec.Epoch, id.ID), []byte("{}"))},
	}, rec.Epoch, nil
}

// BackKey is where a host says that it has told everything.
func BackKey(epoch int, h ownership.Host) string { return fmt.Sprintf("%s%d/%s", prefixBack, epoch, h) }

// Returned returns the identity after Back.
func Returned(id Identity, epoch int, rev int64) Identity {
	id.Epoch, id.Seen = epoch, rev
	return id
}

// Thaw is the transaction that ends a recovery, and whether it is time: all hosts
// that it waits for are back or were removed.
func Thaw(id Identity, s Sight) (store.Txn, bool, error) {
	rec, err := decode[Record](s.Cluster)
	if err != nil || rec.Phase != PhaseRecovering {
		return store.Txn{}, false, err
	}
	for _, h := range rec.Waits {
		if !slices.Contains(s.Back, h) && !slices.Contains(id.Removed, h) {
			return store.Txn{}, false, nil
		}
	}
	rec.Phase, rec.Why, rec.Waits = PhaseOK, "", nil
	return store.Txn{
		If:   []store.Cond{store.Unchanged(keyCluster, s.Cluster.Rev)},
		Then: []store.Op{store.Put(keyCluster, encode(rec))},
	}, true, nil
}

// Remove is the transaction that leaves a tombstone for a host, also in the place of a
// record that cannot be read: of that there is nothing to keep.
func Remove(h ownership.Host, self store.KV) store.Txn {
	rec, err := decode[Self](self)
	if err != nil {
		rec = Self{}
	}
	rec.Version, rec.Removed = recordVersion, true
	key := prefixSelf + string(h)
	return store.Txn{
		If: []store.Cond{store.Unchanged(key, self.Rev)},
		Then: []store.Op{
			store.Put(key, encode(rec)), store.Delete(prefixHosts + string(h)), store.DeletePrefix(prefixAsks + string(h) + "/"),
		},
	}
}

// Fence is what must hold for a host to change an owner: the cluster is as it was
// seen, and so is this host's run.
func Fence(id ownership.Host, s Sight) []store.Cond {
	cluster, self := sightKeys(id)
	return []store.Cond{store.Unchanged(cluster, s.Cluster.Rev), store.Unchanged(self, s.Self.Rev)}
}
