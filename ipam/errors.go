package ipam

import (
	"errors"
	"fmt"
)

// What a caller can act on. Every refusal of this package is an [*Error] that
// wraps one of these.
var (
	// ErrConfig says that [Config] or WEFT_POOLS is unusable.
	ErrConfig = errors.New("bad IPAM setting")
	// ErrSpace says that the address space is not one of this driver's.
	ErrSpace = errors.New("unknown address space")
	// ErrOption says that an --ipam-opt key or value is unusable.
	ErrOption = errors.New("bad --ipam-opt")
	// ErrSubnet says that --subnet or --ip-range is unusable.
	ErrSubnet = errors.New("bad subnet")
	// ErrOverlap says that the subnet collides with a pool in use.
	ErrOverlap = errors.New("Pool overlaps with other one on this address space") // Docker's words
	// ErrNoPool says that no dynamic pool is left.
	ErrNoPool = errors.New("no free pool is left")
	// ErrUnknownPool says that no pool has this PoolID.
	ErrUnknownPool = errors.New("unknown pool")
	// ErrOutside says that the address is not one of the pool's.
	ErrOutside = errors.New("address is not in the pool")
	// ErrReserved says that no host may have the address.
	ErrReserved = errors.New("address is reserved")
	// ErrInUse says that somebody has the address.
	ErrInUse = errors.New("Address already in use") // Docker's words
	// ErrStore says that the cluster's store is needed and cannot be used.
	ErrStore = errors.New("the cluster's store is needed")
	// ErrOwner says that the host that owns an address is not there.
	ErrOwner = errors.New("the address belongs to another host")
	// ErrHost says that this host may not hand out addresses.
	ErrHost = errors.New("this host may hand out no addresses")
	// ErrProbe says that it was not found out in time whether another machine has the
	// address.
	ErrProbe = errors.New("another machine may have the address")
	// ErrNoLine is what a [Prober] says of a line that is down or gone: nobody is on it.
	ErrNoLine = errors.New("nobody can be asked")
	// ErrExhausted says that every address of the pool's range is in use.
	ErrExhausted = errors.New("no free address is left")
)

// An Error is a refusal with advice. Nothing was changed.
type Error struct {
	// Err is one of the package's Err values.
	Err error
	// What says what was wrong with which value.
	What string
	// Do says what the user can do about it.
	Do string
}

// Error returns the cause and the value, without the advice.
func (e *Error) Error() string { return e.Err.Error() + ": " + e.What }

// Unwrap returns the cause.
func (e *Error) Unwrap() error { return e.Err }

// Hint returns the advice, which the plugin shows behind the error.
func (e *Error) Hint() string { return e.Do }

// refuse makes an Error; format and args say what was wrong.
func refuse(cause error, do, format string, args ...any) error {
	return &Error{Err: cause, What: fmt.Sprintf(format, args...), Do: do}
}

// under puts the name of the operation in front of an error that is no refusal.
func under(op string, err error) error {
	if _, refused := errors.AsType[*Error](err); err == nil || refused {
		return err
	}
	return fmt.Errorf("%s: %w", op, err)
}
