package store

import (
	"iter"
	"slices"
	"strings"
)

// Memory is a model of etcd: pure, without a lock, a goroutine or a clock. It
// keeps the values it is given and hands them out, so nobody may change them.
type Memory struct {
	rev       int64
	compacted int64
	kvs       []KV // sorted by key
	gone      []KV // deletions, oldest first; shared with clones, so only ever appended to
}

// NewMemory returns an empty store; its revision is 1, as that of a new etcd.
func NewMemory() *Memory { return &Memory{rev: 1} }

// Clone returns an independent copy: a backup, or a store to restore from one.
func (m *Memory) Clone() *Memory {
	c := *m
	c.kvs, c.gone = slices.Clone(m.kvs), slices.Clip(m.gone)
	m.gone = slices.Clip(m.gone)
	return &c
}

// Rev returns the revision.
func (m *Memory) Rev() int64 { return m.rev }

// Len returns the number of records.
func (m *Memory) Len() int { return len(m.kvs) }

// find returns where key is or belongs.
func (m *Memory) find(key string) (int, bool) {
	lo, hi := 0, len(m.kvs)
	for lo < hi {
		if mid := int(uint(lo+hi) >> 1); m.kvs[mid].Key < key {
			lo = mid + 1
		} else {
			hi = mid
		}
	}
	return lo, lo < len(m.kvs) && m.kvs[lo].Key == key
}

// within returns the records of a prefix; the slice is the Memory's own.
func (m *Memory) within(prefix string) []KV {
	from, _ := m.find(prefix)
	to := from
	for to < len(m.kvs) && strings.HasPrefix(m.kvs[to].Key, prefix) {
		to++
	}
	return m.kvs[from:to]
}

// Get returns a record; Rev 0 means that it is absent.
func (m *Memory) Get(key string) KV {
	if i, ok := m.find(key); ok {
		return m.kvs[i]
	}
	return KV{Key: key}
}

// All goes over the records of a prefix in the order of their keys and allocates
// nothing. The Memory must not be changed meanwhile.
func (m *Memory) All(prefix string) iter.Seq[KV] {
	return func(yield func(KV) bool) {
		for _, kv := range m.within(prefix) {
			if !yield(kv) {
				return
			}
		}
	}
}

// List returns the records of a prefix.
func (m *Memory) List(prefix string) Snapshot {
	return Snapshot{KVs: slices.Clone(m.within(prefix)), Rev: m.rev}
}

// Holds says whether a condition holds.
func (m *Memory) Holds(c Cond) bool {
	kv := m.Get(c.Key)
	if c.Created {
		return kv.Created == c.Rev
	}
	return kv.Rev == c.Rev
}

// Apply does what etcd does with a Txn. One that [Txn.Check] refuses is a mistake
// of the caller and panics.
func (m *Memory) Apply(t Txn) Result {
	if err := t.Check(); err != nil {
		panic(err)
	}
	for _, c := range t.If {
		if !m.Holds(c) {
			return Result{Rev: m.rev, Now: m.now(t.If)}
		}
	}
	next, changed := m.rev+1, false
	for _, op := range t.Then {
		switch {
		case op.Prefix:
			changed = m.remove(m.within(op.Key), next) || changed
		case op.Delete:
			if i, ok := m.find(op.Key); ok {
				changed = m.remove(m.kvs[i:i+1], next)
			}
		default:
			m.put(op, next)
			changed = true
		}
	}
	if changed {
		m.rev = next
	}
	return Result{OK: true, Rev: m.rev}
}

func (m *Memory) now(conds []Cond) []KV {
	var now []KV
	for i, key := range condKeys(conds) {
		if at, ok := m.find(key); ok {
			if now == nil {
				now = make([]KV, 0, len(conds)-i)
			}
			now = append(now, m.kvs[at])
		}
	}
	return now
}

// condKeys goes over the keys of conditions, each once.
func condKeys(conds []Cond) iter.Seq2[int, string] {
	return func(yield func(int, string) bool) {
		for i, c := range conds {
			again := slices.ContainsFunc(conds[:i], func(b Cond) bool { return b.Key == c.Key })
			if !again && !yield(i, c.Key) {
				return
			}
		}
	}
}

func (m *Memory) put(op Op, rev int64) {
	i, ok := m.find(op.Key)
	if !ok {
		m.kvs = slices.Insert(m.kvs, i, KV{Key: op.Key, Created: rev})
	}
	m.kvs[i].Value, m.kvs[i].Rev = op.Value, rev
}

// remove deletes a run of the records, given as a part of them.
func (m *Memory) remove(run []KV, rev int64) bool {
	if len(run) == 0 {
		return false
	}
	from, _ := m.find(run[0].Key)
	for _, kv := range run {
		m.gone = append(m.gone, KV{Key: kv.Key, Rev: rev})
	}
	m.kvs = slices.Delete(m.kvs, from, from+len(run))
	return true
}

// Compact forgets the history up to a revision: [Memory.Since] an older one is
// then a Reset.
func (m *Memory) Compact(rev int64) {
	m.compacted = max(m.compacted, min(rev, m.rev))
	m.gone = slices.Clone(slices.DeleteFunc(slices.Clone(m.gone), func(kv KV) bool { return kv.Rev <= m.compacted }))
}

// Since returns what changed under a prefix after a revision. It is a Reset when
// that is forgotten or, after a restore, yet to come.
func (m *Memory) Since(rev int64, prefix string) Update {
	if rev < m.compacted || rev > m.rev || rev <= 0 {
		return Update{Reset: true, Rev: m.rev, Puts: m.List(prefix).KVs}
	}
	u := Update{Rev: m.rev}
	if rev == m.rev {
		return u
	}
	for kv := range m.All(prefix) {
		if kv.Rev > rev {
			u.Puts = append(u.Puts, kv)
		}
	}
	for i := len(m.gone) - 1; i >= 0 && m.gone[i].Rev > rev; i-- {
		kv := m.gone[i]
		if _, back := m.find(kv.Key); !back && strings.HasPrefix(kv.Key, prefix) {
			u.Deletes = append(u.Deletes, kv)
		}
	}
	// The last deletion of each key comes first and stays.
	slices.SortStableFunc(u.Deletes, func(a, b KV) int { return strings.Compare(a.Key, b.Key) })
	u.Deletes = slices.CompactFunc(u.Deletes, func(a, b KV) bool { return a.Key == b.Key })
	return u
}
