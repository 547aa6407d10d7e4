package store

import "errors"

// What a caller can act on. The message of an error that wraps one of these also
// names the endpoints and says what happened.
var (
	// ErrDown says that the store does not answer and that the request certainly
	// did nothing.
	ErrDown = errors.New("the store is down")
	// ErrUnknown says that a Txn was sent and that its outcome is unknown. It may
	// even happen later: only a Txn that changes a record of its conditions settles
	// it. An error can be both ErrUnknown and one of the others that says why.
	ErrUnknown = errors.New("the outcome is unknown, the change may still happen")
	// ErrReadOnly says that the store takes no more data, only deletions. The request did nothing,
	// unless the error is ErrUnknown as well.
	ErrReadOnly = errors.New("the store is full and takes no more data: compact its history (etcdctl compact), defragment every member (etcdctl defrag) " +
		"or raise --quota-backend-bytes, then run etcdctl alarm disarm")
	// ErrDenied says that the store does not let this host in or not do this. The
	// request did nothing.
	ErrDenied = errors.New("the store denies access")
	// ErrConfig says that a setting is wrong; the message names it.
	ErrConfig = errors.New("bad setting of the store")
	// ErrTooLarge says that a Txn is beyond what the store takes at once. The
	// request did nothing: split it.
	ErrTooLarge = errors.New("too large for one transaction")
	// ErrInvalid says that no store would take this request: a mistake of the
	// caller. It did nothing.
	ErrInvalid = errors.New("invalid request to the store")
	// ErrClosed says that the store was closed; it comes with ErrDown or ErrUnknown.
	ErrClosed = errors.New("the store was closed")
)
