package cluster

import (
	"context"
	"crypto/rand"
	"encoding/hex"
	"fmt"

	"github.com/weft-net/weft/internal/journal"
	"github.com/weft-net/weft/internal/ownership"
)

// Where the journal keeps the identity, and the highest revision seen.
const (
	bucketHost  = "host"
	keyIdentity = "cluster"
	keySeen     = "seen"
)

// random returns a new id of 32 hexadecimal digits.
func random() string {
	var b [16]byte
	_, _ = rand.Read(b[:]) // it never fails
	return hex.EncodeToString(b[:])
}

// LoadIdentity returns the journal's identity. A journal that has none, or one of
// another machine, gives a new id, with renewed set if an older one was given up.
func LoadIdentity(j *journal.Journal, fingerprint string) (id Identity, renewed bool, err error) {
	known, err := journal.Load[Identity](j, bucketHost)
	if err != nil {
		return Identity{}, false, err
	}
	id, ok := known[keyIdentity]
	switch {
	case !ok:
		return Identity{ID: ownership.Host(random()), Fingerprint: fingerprint}, false, nil
	case id.Fingerprint != "" && fingerprint != "" && id.Fingerprint != fingerprint:
		return renew(id, fingerprint), true, nil
	}
	id.Seen = max(id.Seen, known[keySeen].Seen)
	return id, false, nil
}

// renew is the identity of a host that may not use its old one any more.
func renew(old Identity, fingerprint string) Identity {
	return Identity{ID: ownership.Host(random()), Fingerprint: fingerprint}
}

func (id Identity) op() journal.Op { return journal.Put(bucketHost, keyIdentity, id) }

// sight is one look at the store, in two linearizable reads: the later revision is
// never older than what it is compared with.
func (c *Cluster) sight(ctx context.Context, id Identity) (Sight, error) {
	clusterKey, selfKey := sightKeys(id.ID)
	var s Sight
	var err error
	var rev int64
	if s.Cluster, rev, err = c.cfg.Store.Get(ctx, clusterKey); err != nil {
		return s, err
	}
	if s.Self, s.Rev, err = c.cfg.Store.Get(ctx, selfKey); err != nil {
		return s, err
	}
	s.Rev = min(rev, s.Rev)
	rec, err := decode[Record](s.Cluster)
	if err != nil || rec.Phase != PhaseRecovering {
		return s, err
	}
	back, err := c.cfg.Store.Read(ctx, fmt.Sprintf("%s%d/", prefixBack, rec.Epoch))
	if err != nil {
		return s, err
	}
	for _, kv := range back.KVs {
		s.Back = append(s.Back, ownership.Host(kv.Key[len(fmt.Sprintf("%s%d/", prefixBack, rec.Epoch)):]))
	}
	return s, nil
}

func hostOf(key, prefix string) ownership.Host { return ownership.Host(key[len(prefix):]) }
