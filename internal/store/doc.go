// Package store is the one seam to etcd: small records under one prefix, that
// the hosts of a cluster share.
//
//	s, err := store.Open(store.Config{Endpoints: "etcd://h1:2379,h2:2379", Logger: log})
//	defer s.Close()
//	kv, _, err := s.Get(ctx, "pool/a")
//	res, err := s.Commit(ctx, store.Txn{
//		If:   []store.Cond{store.Unchanged(kv.Key, kv.Rev)},
//		Then: []store.Op{store.Put(kv.Key, value)},
//	})
//	err = s.Watch(ctx, "pool/", func(u store.Update) { … })
//
// A [Txn] is the only way to change anything, and what [Store.Commit] reports is
// true: it happened, its conditions did not hold, it certainly did nothing
// ([ErrDown], [ErrDenied], [ErrReadOnly], [ErrTooLarge], [ErrInvalid]), or nobody
// knows yet ([ErrUnknown]) and it may even happen later. Nothing that may have
// left this host is sent twice.
//
// Requests go to one member at a time. A loop reads one key about once a second;
// when that member does not answer it looks for another one, and when no member
// of a quorum has answered for about two seconds the store is known to be down:
// calls then fail at once, until a member answers again.
//
// [Memory] is a model of etcd's semantics for checkers, and [Fake] the store
// without a server for tests of other packages; one conformance suite holds both
// to what etcd 3.4 and 3.5 do.
//
// It does not know what the records mean, caches nothing, retries no Txn that may
// have been sent, takes no locks in the store, and reads certificates only when
// it is opened.
package store
