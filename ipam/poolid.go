package ipam

import (
	"cmp"
	"net/netip"
	"strconv"
	"strings"
)

// Names of the address spaces, as the engine knows them.
const (
	// LocalSpace holds the pools of this host's engine.
	LocalSpace = "weft-local"
	// GlobalSpace holds the pools of a Swarm leader.
	GlobalSpace = "weft-global"
)

// space is an address space's name inside PoolIDs.
type space string

const (
	spaceLocal  space = "local"
	spaceGlobal space = "global"
)

// token tells requests for one subnet apart. None is used twice.
type token uint64

func (t token) String() string { return "t" + strconv.FormatUint(uint64(t), 10) }

// bookKey names a book.
type bookKey struct {
	space  space
	domain string
	subnet netip.Prefix
}

// String returns the form that starts PoolIDs and the keys of address records.
func (k bookKey) String() string {
	return string(k.space) + "/" + k.domain + "/" + k.subnet.String()
}

// poolID is a PoolID in parts, such as local/cluster/10.1.0.0/16/-/t17 or, with
// a range, local/cluster/10.1.0.0/16/10.1.4.0/24/t17.
type poolID struct {
	bookKey
	rng   netip.Prefix // the zero prefix for none
	token token
}

// String returns the form that parsePoolID reads.
func (id poolID) String() string {
	rng := "-"
	if id.rng.IsValid() {
		rng = id.rng.String()
	}
	return id.bookKey.String() + "/" + rng + "/" + id.token.String()
}

// dynamic returns the range of the dynamic choice.
func (id poolID) dynamic() netip.Prefix {
	if id.rng.IsValid() {
		return id.rng
	}
	return id.subnet
}

// parsePoolID reads a PoolID. It accepts exactly what String writes.
func parsePoolID(s string) (poolID, error) {
	bad := refuse(ErrUnknownPool, "the network was not made by this weft: remove and create it again", "%.200q is not a PoolID of weft", s)
	parts := strings.Split(s, "/")
	var rng string
	switch {
	case len(parts) == 6 && parts[4] == "-":
	case len(parts) == 7:
		rng = parts[4] + "/" + parts[5]
	default:
		return poolID{}, bad
	}
	var id poolID
	id.space, id.domain = space(parts[0]), parts[1]
	var errs [3]error
	id.subnet, errs[0] = netip.ParsePrefix(parts[2] + "/" + parts[3])
	if rng != "" {
		id.rng, errs[1] = netip.ParsePrefix(rng)
	}
	n, err := strconv.ParseUint(strings.TrimPrefix(parts[len(parts)-1], "t"), 10, 64)
	id.token, errs[2] = token(n), err
	known := id.space == spaceLocal || id.space == spaceGlobal
	if !known || !validDomain(id.domain) || cmp.Or(errs[:]...) != nil || id.String() != s {
		return poolID{}, bad
	}
	return id, nil
}
