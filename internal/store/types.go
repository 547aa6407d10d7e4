package store

import (
	"fmt"
	"strings"
)

// Bounds of one Txn, those of an etcd with its default settings.
const (
	maxOps   = 128
	maxBytes = 1536 * 1024
)

// KV is one record. Rev is its mod revision, Created its create revision. Value
// is shared: it must not be changed.
type KV struct {
	Key     string
	Value   []byte
	Rev     int64
	Created int64
}

// A Cond is what must hold for a Txn: the record Key has the mod revision Rev or,
// with Created, the create revision Rev. Revision 0 is that of an absent record.
type Cond struct {
	Key     string
	Rev     int64
	Created bool
}

// Unchanged holds while the record is the one that was read with this mod
// revision; 0 means that it is absent.
func Unchanged(key string, rev int64) Cond { return Cond{Key: key, Rev: rev} }

// Lives holds while the record, changed or not, was never deleted and made again.
func Lives(key string, created int64) Cond { return Cond{Key: key, Rev: created, Created: true} }

// An Op is one change: a put of Value, or a Delete of Key, or with Prefix of all
// records whose keys begin with Key.
type Op struct {
	Key    string
	Value  []byte
	Delete bool
	Prefix bool
}

// Put makes or replaces a record.
func Put(key string, value []byte) Op { return Op{Key: key, Value: value} }

// Delete removes a record; one that is absent is success.
func Delete(key string) Op { return Op{Key: key, Delete: true} }

// DeletePrefix removes all records whose keys begin with prefix.
func DeletePrefix(prefix string) Op { return Op{Key: prefix, Delete: true, Prefix: true} }

// A Txn is one atomic change: all of Then if all of If hold, else nothing.
type Txn struct {
	If   []Cond
	Then []Op
}

// Check returns the error that every store has for a Txn it would never take:
// [ErrInvalid] for an empty key, for a key that begins with a slash and for a key
// that is put twice or put and deleted, [ErrTooLarge] beyond 128 conditions or
// changes and beyond 1.5 MiB.
func (t Txn) Check() error {
	if len(t.If) > maxOps || len(t.Then) > maxOps {
		return fmt.Errorf("%w: %d conditions and %d changes, of %d each", ErrTooLarge, len(t.If), len(t.Then), maxOps)
	}
	size := 0
	for _, c := range t.If {
		size += len(c.Key)
		if err := checkKey(c.Key); err != nil {
			return err
		}
	}
	for i, op := range t.Then {
		size += len(op.Key) + len(op.Value)
		if op.Prefix && !op.Delete {
			return fmt.Errorf("%w: a put of the prefix %q", ErrInvalid, op.Key)
		}
		if err := checkKey(op.Key); err != nil && (!op.Prefix || op.Key != "") {
			return err
		}
		for _, before := range t.Then[:i] {
			if before.meets(op) {
				return fmt.Errorf("%w: one transaction changes %q twice", ErrInvalid, op.Key)
			}
		}
	}
	if size > maxBytes {
		return fmt.Errorf("%w: %d bytes, of %d", ErrTooLarge, size, maxBytes)
	}
	return nil
}

// meets says that two changes touch one key and one of them is a put.
func (op Op) meets(other Op) bool {
	return !op.Delete && other.covers(op.Key) || !other.Delete && op.covers(other.Key)
}

// covers says that a change touches this key.
func (op Op) covers(key string) bool {
	return op.Key == key || op.Prefix && strings.HasPrefix(key, op.Key)
}

func checkKey(key string) error {
	if key == "" || key[0] == '/' {
		return fmt.Errorf("%w: key %q: it must not be empty or begin with a slash", ErrInvalid, key)
	}
	return nil
}

// Result is the outcome of a Txn. Rev is the store's revision; that of an OK Txn
// that changed something is the mod revision of every record it put. For a Txn
// whose conditions did not hold, Now are the records that the keys of If have at
// Rev, in the order of If and without the absent ones.
type Result struct {
	OK  bool
	Rev int64
	Now []KV
}

// Snapshot is what a prefix holds at one revision of the store, sorted by key.
type Snapshot struct {
	KVs []KV
	Rev int64
}

// Update is a batch of one watch. With Reset, Puts is the whole state and replaces
// everything known before. A key is in one of Puts and Deletes at most, as it is
// at Rev: what came and went inside of a batch is not told, but shows in a changed
// Created. Deletes have Key and Rev only.
type Update struct {
	Reset   bool
	Rev     int64
	Puts    []KV
	Deletes []KV
}
