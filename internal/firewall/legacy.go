package firewall

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"slices"
	"strings"
	"time"
	"unsafe"

	"golang.org/x/sys/unix"
)

// The legacy iptables interface is socket options of raw sockets, see
// linux/netfilter_ipv4/ip_tables.h. Reading the info of a table costs one system
// call and runs no program.
const soGetInfo = 64 // IPT_SO_GET_INFO and IP6T_SO_GET_INFO

// tableInfo is struct ipt_getinfo.
type tableInfo struct {
	name       [32]byte
	validHooks uint32
	hookEntry  [5]uint32
	underflow  [5]uint32
	entries    uint32
	size       uint32
}

// A legacyTable is the filter table of one family in the legacy flavour.
type legacyTable struct {
	names *os.File // the list of tables that exist
	sock  int
	level int
	// last is what was there at the last look; the zero value for no table.
	last tableInfo
}

// legacyTables are those of both families; of a family that the kernel lacks,
// none.
type legacyTables []*legacyTable

// openLegacy prepares the look at the legacy tables of a namespace. It makes none.
func openLegacy(ns namespace) (ts legacyTables, err error) {
	err = ns.do(func() error {
		var errs []error
		for _, v6 := range []bool{false, true} {
			t, err := openLegacyTable(v6)
			if errors.Is(err, os.ErrNotExist) {
				continue
			}
			if err != nil {
				errs = append(errs, fmt.Errorf("opening legacy iptables: %w", err))
				continue
			}
			ts = append(ts, t)
		}
		return errors.Join(errs...)
	})
	return ts, err
}

func openLegacyTable(v6 bool) (*legacyTable, error) {
	domain, level := unix.AF_INET, unix.IPPROTO_IP
	if v6 {
		domain, level = unix.AF_INET6, unix.IPPROTO_IPV6
	}
	names, err := os.Open(legacyNames(v6))
	if err != nil {
		return nil, err
	}
	sock, err := unix.Socket(domain, unix.SOCK_RAW|unix.SOCK_CLOEXEC, unix.IPPROTO_RAW)
	if err != nil {
		return nil, errors.Join(err, names.Close())
	}
	t := &legacyTable{names: names, sock: sock, level: level}
	t.last = t.look()
	return t, nil
}

func (ts legacyTables) close() {
	for _, t := range ts {
		_ = t.names.Close()
		_ = unix.Close(t.sock)
	}
}

// changed says whether the table differs from the last look.
func (t *legacyTable) changed() bool {
	now := t.look()
	same := now == t.last
	t.last = now
	return !same
}

// look returns the table's vital figures; asking for a table that does not
// exist would make it.
func (t *legacyTable) look() tableInfo {
	var info tableInfo
	if _, err := t.names.Seek(0, io.SeekStart); err != nil {
		return info
	}
	names, err := io.ReadAll(t.names)
	if err != nil || !slices.Contains(strings.Fields(string(names)), filterName) {
		return info
	}
	copy(info.name[:], filterName)
	size := uint32(unsafe.Sizeof(info))
	_, _, errno := unix.Syscall6(unix.SYS_GETSOCKOPT, uintptr(t.sock), uintptr(t.level), soGetInfo,
		uintptr(unsafe.Pointer(&info)), uintptr(unsafe.Pointer(&size)), 0)
	if errno != 0 {
		return tableInfo{}
	}
	return info
}

// poll hints at changes of legacy iptables until the context is done. It also
// hints after own edits: the same damage, done again between two looks, would
// look like no change.
func poll(ctx context.Context, ts legacyTables, edits func() uint64, dirty chan<- struct{}) {
	seen := edits()
	ticker := time.NewTicker(pollTime)
	defer ticker.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-ticker.C:
		}
		if now := edits(); now != seen && len(ts) > 0 {
			seen = now
			hint(dirty)
		}
		for _, t := range ts {
			if t.changed() {
				hint(dirty)
			}
		}
	}
}
