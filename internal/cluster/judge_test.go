package cluster_test

import (
	"encoding/json"
	"errors"
	"slices"
	"testing"

	"github.com/weft-net/weft/internal/cluster"
	"github.com/weft-net/weft/internal/ownership"
	"github.com/weft-net/weft/internal/store"
)

// kv is a record as the store has it; nil is an absent one.
func kv(t *testing.T, key string, rev int64, record any) store.KV {
	t.Helper()
	if record == nil {
		return store.KV{Key: key}
	}
	value, err := json.Marshal(record)
	if err != nil {
		t.Fatal(err)
	}
	return store.KV{Key: key, Value: value, Rev: rev, Created: rev}
}

// TestJudge has one line for each thing that a look at the store can mean.
func TestJudge(t *testing.T) {
	t.Parallel()
	// What this host knows: nothing, or that it is run 3 in epoch 2 and saw revision 20.
	fresh := cluster.Identity{ID: "me"}
	known := cluster.Identity{ID: "me", UUID: "u", Epoch: 2, Incarnation: 3, Nonce: "n", Seen: 20}
	starts := known
	starts.Next = "next"
	// What the store says.
	record := func(epoch int, phase cluster.Phase) cluster.Record {
		return cluster.Record{Version: 1, UUID: "u", Epoch: epoch, Phase: phase}
	}
	ok, frozen, recovering := record(2, cluster.PhaseOK), record(2, cluster.PhaseFrozen), record(2, cluster.PhaseRecovering)
	self := func(nonce string) cluster.Self { return cluster.Self{Version: 1, Incarnation: 3, Nonce: nonce} }
	removed := cluster.Self{Version: 1, Incarnation: 3, Nonce: "n", Removed: true}
	tombstone := cluster.Self{Version: 1, Removed: true} // put back by a recovery
	none, me := []ownership.Host(nil), []ownership.Host{"me"}

	for _, c := range []struct {
		name      string
		id        cluster.Identity
		record    any
		self      any
		rev       int64
		back      []ownership.Host
		confirmed bool
		want      cluster.Standing
	}{
		{"a new host, a new store", fresh, nil, nil, 1, none, false, cluster.Founding},
		{"a new host, a cluster", fresh, ok, nil, 9, none, false, cluster.Raising},
		{"a new host, a frozen cluster", fresh, frozen, nil, 9, none, false, cluster.Frozen},
		{"a new host, a recovery", fresh, recovering, nil, 9, none, false, cluster.Waiting},
		{"a new host whose id somebody has", fresh, ok, self("n"), 9, none, false, cluster.Stopped},

		{"a start", known, ok, self("n"), 20, none, false, cluster.Raising},
		{"a start that may have happened", starts, ok, self("n"), 20, none, false, cluster.Raising},
		{"a start that happened", starts, ok, self("next"), 20, none, false, cluster.Raising},
		{"a run", known, ok, self("n"), 20, none, true, cluster.Member},
		{"a copy of this host ran", known, ok, self("x"), 20, none, true, cluster.Stopped},
		{"a copy of this host ran while this one starts", starts, ok, self("x"), 20, none, false, cluster.Stopped},
		{"a record of no run", known, ok, self(""), 20, none, true, cluster.Stopped},

		{"wiped", known, nil, nil, 1, none, true, cluster.Frozen},
		{"another cluster", known, cluster.Record{Version: 1, UUID: "v", Epoch: 2, Phase: cluster.PhaseOK}, nil, 20, none, true, cluster.Foreign},
		{"another cluster that knows a host of this id", known, cluster.Record{Version: 1, UUID: "v", Epoch: 2, Phase: cluster.PhaseOK}, removed, 20, none, true, cluster.Foreign},
		{"restored: an older revision", known, ok, self("n"), 19, none, true, cluster.Freezing},
		{"restored: an older revision while this one starts", known, ok, self("n"), 19, none, false, cluster.Freezing},
		{"restored: this host is not there", known, ok, nil, 20, none, true, cluster.Freezing},
		{"restored: an older epoch", known, record(1, cluster.PhaseOK), self("n"), 900, none, true, cluster.Freezing},
		{"restored: an older recovery", known, record(1, cluster.PhaseRecovering), self("n"), 900, none, true, cluster.Freezing},
		{"restored: an older recovery in which this host is back", known, record(1, cluster.PhaseRecovering), self("n"), 900, me, true, cluster.Freezing},
		{"restored, and somebody found out", known, frozen, self("n"), 19, none, true, cluster.Frozen},

		{"frozen", known, frozen, self("n"), 20, none, true, cluster.Frozen},
		{"frozen in a later epoch", known, record(3, cluster.PhaseFrozen), self("n"), 5, none, true, cluster.Frozen},
		{"a recovery begins", known, record(3, cluster.PhaseRecovering), self("n"), 5, none, true, cluster.Recovering},
		{"a recovery begins, of a store without this host", known, record(3, cluster.PhaseRecovering), nil, 5, none, false, cluster.Recovering},
		{"a recovery waits for others", known, recovering, self("n"), 20, me, true, cluster.Waiting},
		{"a recovery ended", known, ok, self("n"), 20, me, true, cluster.Member},
		{"a recovery ended without this host", known, record(3, cluster.PhaseOK), self("n"), 5, none, true, cluster.Removed},
		{"a recovery ended with this host, which ended before it kept that", known, record(3, cluster.PhaseOK), self("n"), 5, me, false, cluster.Raising},
		{"the same in a run that is confirmed", known, record(3, cluster.PhaseOK), self("n"), 5, me, true, cluster.Raising},

		{"removed", known, ok, removed, 20, none, true, cluster.Removed},
		{"removed, by the tombstone of a recovery", known, ok, tombstone, 20, none, true, cluster.Removed},
		{"removed while frozen", known, frozen, removed, 20, none, true, cluster.Removed},
		{"removed while recovering", known, record(3, cluster.PhaseRecovering), removed, 5, none, true, cluster.Removed},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			sight := cluster.Sight{Rev: c.rev, Cluster: kv(t, "cluster", 5, c.record), Self: kv(t, "self/me", 6, c.self), Back: c.back}
			v, err := cluster.Judge(c.id, sight, c.confirmed)
			if err != nil || v.Standing != c.want {
				t.Fatalf("%q (%s), %v; want %q", v.Standing, v.Why, err, c.want)
			}
		})
	}
}

// TestJudgeOfRecordsThatItCannotRead: a host that does not understand the store keeps
// to itself.
func TestJudgeOfRecordsThatItCannotRead(t *testing.T) {
	t.Parallel()
	id := cluster.Identity{ID: "me", UUID: "u", Epoch: 1, Nonce: "n"}
	ok := store.KV{Key: "cluster", Value: []byte(`{"v":1,"uuid":"u","epoch":1,"phase":"ok"}`), Rev: 5}
	for _, c := range []struct {
		name          string
		cluster, self string
		want          error
	}{
		{"a cluster of the future", `{"v":2}`, "", ownership.ErrNewer},
		{"a damaged cluster", `{`, "", ownership.ErrDamaged},
		{"a cluster of another shape", `{"v":1,"epoch":"x"}`, "", ownership.ErrDamaged},
		{"a run of the future", "", `{"v":2,"removed":"perhaps"}`, ownership.ErrNewer},
		{"a damaged run", "", `[]`, ownership.ErrDamaged},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			s := cluster.Sight{Rev: 9, Cluster: ok, Self: store.KV{Key: "self/me"}}
			if c.cluster != "" {
				s.Cluster.Value = []byte(c.cluster)
			}
			if c.self != "" {
				s.Self = store.KV{Key: "self/me", Value: []byte(c.self), Rev: 6}
			}
			if v, err := cluster.Judge(id, s, true); !errors.Is(err, c.want) || v.Standing != cluster.Unreadable {
				t.Fatal(v, err)
			}
		})
	}
}

// TestStandings says what a host may do in each of them.
func TestStandings(t *testing.T) {
	t.Parallel()
	allocates := []cluster.Standing{
		cluster.Apart, cluster.Unreadable, cluster.Founding, cluster.Raising, cluster.Member, cluster.Frozen, cluster.Freezing,
		cluster.Recovering, cluster.Waiting, cluster.Foreign,
	}
	for _, s := range append(slices.Clone(allocates), cluster.Stopped, cluster.Removed) {
		mode := ownership.Frozen
		switch s {
		case cluster.Member:
			mode = ownership.Normal
		case cluster.Recovering:
			mode = ownership.Recovering
		}
		if s.Allocates() != slices.Contains(allocates, s) || s.Mode() != mode {
			t.Errorf("%s: allocates %v, mode %v", s, s.Allocates(), s.Mode())
		}
	}
}
