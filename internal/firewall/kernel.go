package firewall

import (
	"crypto/sha256"
	"encoding/binary"
	"errors"
	"fmt"
	"slices"

	"github.com/google/nftables"
	"github.com/google/nftables/expr"
	"github.com/mdlayher/netlink"
	"golang.org/x/sys/unix"
)

// A tables is the seam to nf_tables by netlink: elements change here, whole
// rules in skeleton.go. It is not safe for concurrent use.
type tables struct {
	ns   namespace
	conn *nftables.Conn
	// port is the address of the socket: the kernel signs our changes with it.
	port uint32
	// look is the socket of dumps, nil until one is needed. It stays open: when any is
	// closed, the kernel first waits, for tens of milliseconds and with all changes of
	// rules locked out, until what was deleted before is gone.
	look *netlink.Conn
}

func openTables(ns namespace) (*tables, error) {
	t := &tables{ns: ns}
	return t, t.dial()
}

func (t *tables) dial() error {
	conn, err := nftables.New(nftables.AsLasting(), nftables.WithNetNSFd(t.ns.fd()),
		nftables.WithSockOptions(func(c *netlink.Conn) error {
			// A transaction is one message: leave room for thousands of ports.
			return errors.Join(c.SetWriteBuffer(maxTransaction), c.SetReadBuffer(maxTransaction), t.learnPort(c))
		}))
	if err != nil {
		return fmt.Errorf("opening netfilter netlink: %w", err)
	}
	t.conn = conn
	return nil
}

const (
	maxTransaction = 8 << 20
	// maxElements keeps the elements of one message within the 64 KiB of an attribute.
	maxElements = 256
)

func (t *tables) learnPort(c *netlink.Conn) error {
	rc, err := c.SyscallConn()
	if err != nil {
		return err
	}
	var sa unix.Sockaddr
	var nameErr error
	if err := rc.Control(func(fd uintptr) { sa, nameErr = unix.Getsockname(int(fd)) }); err != nil {
		return err
	}
	if nl, ok := sa.(*unix.SockaddrNetlink); ok {
		t.port = nl.Pid
	}
	return nameErr
}

// redial replaces the socket: after an error, answers may be left on it.
func (t *tables) redial() error {
	return errors.Join(t.conn.CloseLasting(), t.dial())
}

func (t *tables) close() error { return errors.Join(t.conn.CloseLasting(), t.lookAway()) }

// lookAway closes the socket of dumps.
func (t *tables) lookAway() error {
	if t.look == nil {
		return nil
	}
	defer func() { t.look = nil }()
	return t.look.Close()
}

// apply makes the change, and what was added to the transaction before, in one
// transaction. Each set is in one of the tables.
func (t *tables) apply(c change, in ...table) error {
	for _, of := range in {
		if err := t.put(c.of(of), of); err != nil {
			return errors.Join(err, t.redial())
		}
	}
	return t.flush("changing the sets")
}

// put adds the change of one table's sets to the next transaction.
func (t *tables) put(c change, of table) error {
	for _, set := range c.sets() {
		s := &nftables.Set{Table: of.kernel(), Name: string(set), IsMap: true}
		for chunk := range slices.Chunk(c.remove[set], maxElements) {
			if err := t.conn.SetDeleteElements(s, setElements(set, chunk)); err != nil {
				return fmt.Errorf("removing from set %s: %w", set, err)
			}
		}
		for chunk := range slices.Chunk(c.add[set], maxElements) {
			if err := t.conn.SetAddElements(s, setElements(set, chunk)); err != nil {
				return fmt.Errorf("adding to set %s: %w", set, err)
			}
		}
	}
	return nil
}

func (t *tables) flush(doing string) error {
	err := t.conn.Flush()
	if err == nil {
		return nil
	}
	return fmt.Errorf("%s of table %s: %w", doing, tableName, errors.Join(err, t.redial()))
}

func setElements(set setName, raws []raw) []nftables.SetElement {
	out := make([]nftables.SetElement, len(raws))
	for i, r := range raws {
		out[i] = nftables.SetElement{Key: []byte(r.key), KeyEnd: []byte(r.last), IntervalEnd: r.bound}
		switch {
		case r.data == "":
		case set.layout() == layoutVerdict:
			out[i].VerdictData = verdictOf(r.data)
		default:
			out[i].Val = []byte(r.data)
		}
	}
	return out
}

func verdictOf(text string) *expr.Verdict {
	if chain, ok := cutVerdict(text); ok {
		return &expr.Verdict{Kind: expr.VerdictGoto, Chain: chain}
	}
	return &expr.Verdict{Kind: expr.VerdictDrop}
}

// exists says whether the table of this family and name exists.
func (t *tables) exists(family nftables.TableFamily, name string) (bool, error) {
	ts, err := t.conn.ListTablesOfFamily(family)
	if err != nil {
		return false, fmt.Errorf("listing nftables tables: %w", err)
	}
	return slices.ContainsFunc(ts, func(t *nftables.Table) bool { return t.Name == name }), nil
}

// chains returns the names of the chains of a table.
func (t *tables) chains(family nftables.TableFamily, table string) ([]string, error) {
	all, err := t.conn.ListChainsOfTableFamily(family)
	if err != nil {
		return nil, fmt.Errorf("listing nftables chains: %w", err)
	}
	var names []string
	for _, c := range all {
		if c.Table.Name == table {
			names = append(names, c.Name)
		}
	}
	return names, nil
}

// drop deletes tables of weft with everything in them, and returns which there were.
func (t *tables) drop(of ...table) ([]table, error) {
	var dropped []table
	for _, w := range of {
		switch ok, err := t.exists(w.family, w.name); {
		case err != nil:
			return dropped, err
		case !ok:
			continue
		}
		t.conn.DelTable(w.kernel())
		if err := t.flush("deletion"); err != nil && !errors.Is(err, unix.ENOENT) {
			return dropped, err
		}
		dropped = append(dropped, w)
	}
	return dropped, nil
}

// elements returns what the kernel holds in every set of the table.
func (t *tables) elements(of table) (map[setName][]raw, error) {
	have := map[setName][]raw{}
	for _, set := range of.sets {
		msgs, err := t.dump(of, unix.NFT_MSG_GETSETELEM, unix.NFTA_SET_ELEM_LIST_TABLE, netlink.Attribute{
			Type: unix.NFTA_SET_ELEM_LIST_SET, Data: []byte(set + "\x00"),
		})
		if err != nil {
			return nil, fmt.Errorf("reading set %s: %w", set, err)
		}
		for _, m := range msgs {
			rs, err := decodeElements(m.Data)
			if err != nil {
				return nil, fmt.Errorf("decoding set %s: %w", set, err)
			}
			have[set] = append(have[set], rs...)
		}
	}
	return have, nil
}

// dump asks for all objects of a kind in the table, again if the rules changed
// while the kernel was answering.
func (t *tables) dump(of table, kind, tableAttr uint16, attrs ...netlink.Attribute) ([]netlink.Message, error) {
	if t.look == nil {
		c, err := netlink.Dial(unix.NETLINK_NETFILTER, &netlink.Config{NetNS: t.ns.fd()})
		if err != nil {
			return nil, err
		}
		t.look = c
	}
	data, err := netlink.MarshalAttributes(append([]netlink.Attribute{{Type: tableAttr, Data: []byte(of.name + "\x00")}}, attrs...))
	if err != nil {
		return nil, err
	}
	for range dumpAttempts {
		msgs, err := t.look.Execute(netlink.Message{
			Header: netlink.Header{
				Type:  netlink.HeaderType(unix.NFNL_SUBSYS_NFTABLES<<8 | kind),
				Flags: netlink.Request | netlink.Dump,
			},
			Data: append([]byte{byte(of.family), 0, 0, 0}, data...),
		})
		if err != nil {
			return nil, errors.Join(err, t.lookAway()) // answers may be left on it
		}
		if !slices.ContainsFunc(msgs, func(m netlink.Message) bool { return m.Header.Flags&unix.NLM_F_DUMP_INTR != 0 }) {
			return msgs, nil
		}
	}
	return nil, unix.EINTR
}

const dumpAttempts = 20

// fingerprint digests the table's rules and chains, and counts the rules. Two
// loads of one skeleton have the same fingerprint, elements aside.
func (t *tables) fingerprint(of table) (digest string, rules int, err error) {
	there, err := t.conn.ListTableOfFamily(of.name, of.family)
	if err != nil {
		return "", 0, fmt.Errorf("reading the table: %w", err)
	}
	h := sha256.New()
	fmt.Fprintln(h, there.Flags)
	hash := func(m netlink.Message, what string, attrs ...uint16) error {
		ad, err := netlink.NewAttributeDecoder(m.Data[4:])
		if err != nil {
			return err
		}
		var fields []string
		table := ""
		for ad.Next() {
			if ad.Type() == 1 { // NFTA_CHAIN_TABLE, NFTA_RULE_TABLE
				table = ad.String()
			}
			if slices.Contains(attrs, ad.Type()) {
				fields = append(fields, string(ad.Bytes()))
			}
		}
		if table == of.name {
			fmt.Fprintf(h, "%s %q\n", what, fields)
			if what == "rule" {
				rules++
			}
		}
		return ad.Err()
	}
	for _, k := range []struct {
		what  string
		kind  uint16
		attrs []uint16
	}{
		{"chain", unix.NFT_MSG_GETCHAIN, []uint16{unix.NFTA_CHAIN_NAME, unix.NFTA_CHAIN_HOOK, unix.NFTA_CHAIN_POLICY, unix.NFTA_CHAIN_TYPE}},
		{"rule", unix.NFT_MSG_GETRULE, []uint16{unix.NFTA_RULE_CHAIN, unix.NFTA_RULE_EXPRESSIONS}},
	} {
		msgs, err := t.dump(of, k.kind, 1)
		if err != nil {
			return "", 0, fmt.Errorf("reading the %ss: %w", k.what, err)
		}
		for _, m := range msgs {
			if err := hash(m, k.what, k.attrs...); err != nil {
				return "", 0, fmt.Errorf("decoding a %s: %w", k.what, err)
			}
		}
	}
	return fmt.Sprintf("%x", h.Sum(nil)), rules, nil
}

// decodeElements reads one message of a dump of set elements.
func decodeElements(data []byte) ([]raw, error) {
	ad, err := netlink.NewAttributeDecoder(data[4:])
	if err != nil {
		return nil, err
	}
	var out []raw
	for ad.Next() {
		if ad.Type() != unix.NFTA_SET_ELEM_LIST_ELEMENTS {
			continue
		}
		ad.Nested(func(list *netlink.AttributeDecoder) error {
			for list.Next() {
				list.Nested(func(elem *netlink.AttributeDecoder) error {
					r, err := decodeElement(elem)
					// nft opens an interval set with a bound that closes nothing.
					if opening := r.bound && !slices.ContainsFunc([]byte(r.key), func(b byte) bool { return b != 0 }); !opening {
						out = append(out, r)
					}
					return err
				})
			}
			return list.Err()
		})
	}
	return out, ad.Err()
}

func decodeElement(elem *netlink.AttributeDecoder) (raw, error) {
	var r raw
	value := func(to *string) func(*netlink.AttributeDecoder) error {
		return func(ad *netlink.AttributeDecoder) error {
			for ad.Next() {
				switch ad.Type() {
				case unix.NFTA_DATA_VALUE:
					*to = string(ad.Bytes())
				case unix.NFTA_DATA_VERDICT:
					ad.Nested(func(v *netlink.AttributeDecoder) error {
						*to = decodeVerdict(v)
						return v.Err()
					})
				}
			}
			return ad.Err()
		}
	}
	for elem.Next() {
		switch elem.Type() {
		case unix.NFTA_SET_ELEM_KEY:
			elem.Nested(value(&r.key))
		case nftables.NFTA_SET_ELEM_KEY_END:
			elem.Nested(value(&r.last))
		case unix.NFTA_SET_ELEM_DATA:
			elem.Nested(value(&r.data))
		case unix.NFTA_SET_ELEM_FLAGS:
			r.bound = binary.BigEndian.Uint32(elem.Bytes())&unix.NFT_SET_ELEM_INTERVAL_END != 0
		}
	}
	return r, elem.Err()
}

// decodeVerdict returns the verdict in the words of element.verdict.
func decodeVerdict(v *netlink.AttributeDecoder) string {
	var code int32
	chain := ""
	for v.Next() {
		switch v.Type() {
		case unix.NFTA_VERDICT_CODE:
			code = int32(binary.BigEndian.Uint32(v.Bytes()))
		case unix.NFTA_VERDICT_CHAIN:
			chain = v.String()
		}
	}
	switch expr.VerdictKind(code) {
	case expr.VerdictGoto:
		return gotoPrefix + chain
	case expr.VerdictDrop:
		return "drop"
	}
	return fmt.Sprintf("verdict %d %s", code, chain)
}
