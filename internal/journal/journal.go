// Package journal is what this host has promised its engine, on disk.
//
// A [Journal] is a bbolt file of small records in named buckets. [Journal.Commit]
// returns when its records are durable. Commits that arrive while the disk is
// busy share the next write, so a burst costs as many syncs as the disk can do
// and a lone commit waits for nobody.
//
//	j, err := journal.Open("/var/lib/weft/journal.db")
//	err = j.Commit(ctx, journal.Put("endpoints", id, record))
//
// It does not interpret records, it has no cache, and one process at a time
// opens a file: the second one gets [ErrLocked].
package journal

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"sync"
	"time"

	"go.etcd.io/bbolt"
	bolterrors "go.etcd.io/bbolt/errors"
)

// ErrLocked means that another process has the journal open.
var ErrLocked = errors.New("the journal is in use by another process: stop the other weft first")

// ErrClosed means that the journal was closed before the commit was durable.
var ErrClosed = errors.New("the journal is closed")

// An Op is one change of one record. Make it with [Put] or [Delete].
type Op struct {
	bucket, key string
	value       []byte
	err         error
}

// Put stores value as JSON under bucket and key.
func Put(bucket, key string, value any) Op {
	b, err := json.Marshal(value)
	return Op{bucket: bucket, key: key, value: b, err: err}
}

// Delete removes a record; one that is absent is success.
func Delete(bucket, key string) Op { return Op{bucket: bucket, key: key} }

// A Journal is an open file. It is safe for concurrent use.
type Journal struct {
	db *bbolt.DB

	mu     sync.Mutex
	queue  []*commit
	wake   chan struct{}
	closed bool
	done   chan struct{}
}

// commit is one caller's group of changes.
type commit struct {
	ops  []Op
	done chan error
}

// Open opens or makes the file and its directory (mode 0700).
func Open(path string) (*Journal, error) {
	if err := os.MkdirAll(filepath.Dir(path), 0o700); err != nil {
		return nil, fmt.Errorf("open journal %s: %w", path, err)
	}
	db, err := bbolt.Open(path, 0o600, &bbolt.Options{Timeout: 3 * time.Second, NoFreelistSync: true})
	if errors.Is(err, bolterrors.ErrTimeout) {
		return nil, fmt.Errorf("open journal %s: %w", path, ErrLocked)
	}
	if err != nil {
		return nil, fmt.Errorf("open journal %s: %w", path, err)
	}
	j := &Journal{db: db, wake: make(chan struct{}, 1), done: make(chan struct{})}
	go j.run()
	return j, nil
}

// Commit makes all of ops durable or none of them. When ctx ends first the
// outcome is unknown: the write may still happen.
func (j *Journal) Commit(ctx context.Context, ops ...Op) error {
	for _, op := range ops {
		if op.err != nil {
			return fmt.Errorf("journal %s/%s: %w", op.bucket, op.key, op.err)
		}
	}
	c := &commit{ops: ops, done: make(chan error, 1)}
	j.mu.Lock()
	if j.closed {
		j.mu.Unlock()
		return ErrClosed
	}
	j.queue = append(j.queue, c)
	j.mu.Unlock()
	select {
	case j.wake <- struct{}{}:
	default:
	}
	select {
	case err := <-c.done:
		return err
	case <-ctx.Done():
		return fmt.Errorf("journal: %w", ctx.Err())
	}
}

// run writes group after group: whatever queued while the last one was synced.
func (j *Journal) run() {
	defer close(j.done)
	for range j.wake {
		j.mu.Lock()
		group, closed := j.queue, j.closed
		j.queue = nil
		j.mu.Unlock()
		if len(group) > 0 {
			err := j.write(group)
			for _, c := range group {
				c.done <- err
			}
		}
		if closed {
			return
		}
	}
}

func (j *Journal) write(group []*commit) error {
	err := j.db.Update(func(tx *bbolt.Tx) error {
		for _, c := range group {
			for _, op := range c.ops {
				b, err := tx.CreateBucketIfNotExists([]byte(op.bucket))
				if err != nil {
					return err
				}
				if op.value == nil {
					err = b.Delete([]byte(op.key))
				} else {
					err = b.Put([]byte(op.key), op.value)
				}
				if err != nil {
					return err
				}
			}
		}
		return nil
	})
	if err != nil {
		return fmt.Errorf("write journal %s: %w", j.db.Path(), err)
	}
	return nil
}

// Each calls fn for every record of a bucket in the order of the keys. The
// value is only valid during the call.
func (j *Journal) Each(bucket string, fn func(key string, value []byte) error) error {
	return j.db.View(func(tx *bbolt.Tx) error {
		b := tx.Bucket([]byte(bucket))
		if b == nil {
			return nil
		}
		return b.ForEach(func(k, v []byte) error { return fn(string(k), v) })
	})
}

// Load decodes every record of a bucket. A record that does not decode is an
// error that names it: guessing what was promised would be worse.
func Load[T any](j *Journal, bucket string) (map[string]T, error) {
	out := make(map[string]T)
	err := j.Each(bucket, func(key string, value []byte) error {
		var rec T
		if err := json.Unmarshal(value, &rec); err != nil {
			return fmt.Errorf("journal record %s/%s is damaged: %w", bucket, key, err)
		}
		out[key] = rec
		return nil
	})
	return out, err
}

// Close waits for what is queued and closes the file.
func (j *Journal) Close() error {
	j.mu.Lock()
	first := !j.closed
	j.closed = true
	j.mu.Unlock()
	if first {
		select {
		case j.wake <- struct{}{}:
		default:
		}
	}
	<-j.done
	return j.db.Close()
}
