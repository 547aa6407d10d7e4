package firewall

import (
	"cmp"
	"encoding/binary"
	"errors"
	"fmt"
	"net/netip"
	"os"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/google/nftables"
	"github.com/google/nftables/expr"
	"github.com/mdlayher/netlink"
	"golang.org/x/sys/unix"
)

const (
	// redirectTable is the table of a Redirect, in the sandbox, and redirectChain its chain.
	redirectTable, redirectChain = "weft-names", "output"
	// redirectPriority is -300 in two's complement (raw): before connection tracking.
	redirectPriority = 1<<32 - 300
	// armedSet has the resolver's address while a Redirect holds.
	armedSet = "armed"

	// tableOwner is NFT_TABLE_F_OWNER (linux/netfilter/nf_tables.h).
	tableOwner = 2

	// RedirectLife is how long a Redirect holds without being renewed. nftables needs some
	// milliseconds more: all of it is within ten seconds.
	RedirectLife = 9 * time.Second
)

// A Redirection is what is sent elsewhere inside a sandbox: packets that its processes
// send to a resolver by UDP and TCP, unless they come from the address that passes.
type Redirection struct {
	// Namespace is the sandbox, open. It is not needed any more when Open returns.
	Namespace *os.File
	// Resolver is whom the sandbox's processes ask, an IPv4 address and a port.
	Resolver netip.AddrPort
	// UDP and TCP are the ports, at the resolver's address, of who answers instead.
	UDP, TCP uint16
	// Pass is where packets come from that do reach the resolver.
	Pass netip.Addr
	// Timed asks for the way of older kernels, see [Redirect.Timed].
	Timed bool
	// life is RedirectLife if it is 0.
	life time.Duration
}

func (r Redirection) check() error {
	switch {
	case !r.Resolver.Addr().Is4() || r.Resolver.Port() == 0:
		return fmt.Errorf("%w: resolver %s of a redirection: give an IPv4 address and a port", ErrInvalid, r.Resolver)
	case r.UDP == 0 || r.TCP == 0:
		return fmt.Errorf("%w: ports %d (UDP) and %d (TCP) of a redirection: give two from 1 to 65535", ErrInvalid, r.UDP, r.TCP)
	case !r.Pass.Is4():
		return fmt.Errorf("%w: address %s that a redirection lets pass: without one (IPv4), weft's own questions would come back to it", ErrInvalid, r.Pass)
	}
	return nil
}

// Redirects opens Redirects. The zero value is ready, and safe for concurrent use; a
// process needs one.
type Redirects struct{ keepers keepers }

// A Redirect is a Redirection in force for RedirectLife after it was opened or renewed
// last, so that one whose process is stopped ends by itself. Nobody has to clean up after
// it either: its table belongs to a netlink socket of this process, and the kernel (Linux
// 5.12 or later) removes it with the socket, however the process ends.
//
// It rewrites ports of packets that connection tracking is told not to see ("notrack"),
// so the engine's rules do not see them either, and the kernel remembers nothing: the
// first packet after the end of a Redirect goes to the engine, from any socket. Its
// methods are safe for concurrent use.
type Redirect struct {
	timed    bool
	life     time.Duration
	resolver netip.Addr
	keepers  *keepers
	keeper   *keeper // whose thread has the wire; nil if timed

	renewing atomic.Bool  // a call of Renew is at it
	renewed  atomic.Int64 // when last, in ns since 1970

	mu   sync.Mutex // protects wire; those of one keeper are locked together by one call of Renew
	wire *wire      // nil when closed
}

// Open puts a redirection in force, instead of one that an earlier process left in the
// sandbox. It fails with EPERM while another process that lives has one there.
func (k *Redirects) Open(facts Redirection) (*Redirect, error) {
	if err := facts.check(); err != nil {
		return nil, err
	}
	began := time.Now()
	r := &Redirect{timed: facts.Timed, life: cmp.Or(facts.life, RedirectLife), resolver: facts.Resolver.Addr(), keepers: &k.keepers}
	err := r.open(facts)
	if !r.timed && (errors.Is(err, unix.EOPNOTSUPP) || errors.Is(err, unix.EINVAL)) {
		r.timed = true
		err = r.open(facts)
	}
	switch {
	case errors.Is(err, unix.EPERM):
		return nil, fmt.Errorf("redirect: table %s: does a second weft run, or is CAP_NET_ADMIN missing? %w", redirectTable, err)
	case err != nil:
		return nil, fmt.Errorf("redirect: table %s: %w", redirectTable, err)
	}
	r.renewed.Store(began.UnixNano())
	return r, nil
}

// open makes the socket in the sandbox and the table with it. A socket whose death counts
// is a keeper's.
func (r *Redirect) open(facts Redirection) error {
	fill := func() error {
		w, err := openWire()
		if err != nil {
			return err
		}
		if err := w.do(r.table(facts)); err != nil {
			return errors.Join(err, w.close())
		}
		r.wire = w
		return nil
	}
	if r.timed {
		return namespace{facts.Namespace}.do(fill)
	}
	for {
		keeper, err := r.keepers.borrow()
		if err != nil {
			return err
		}
		err = keeper.within(facts.Namespace, fill)
		if err == nil {
			r.keeper = keeper
			return nil
		}
		if r.wire != nil {
			err = errors.Join(err, keeper.do(r.wire.close))
		}
		r.keepers.giveBack(keeper)
		if !errors.Is(err, errStuck) {
			return err
		}
	}
}

// table makes the table instead of what there is.
func (r *Redirect) table(facts Redirection) *transaction {
	t := &transaction{family: unix.NFPROTO_IPV4}
	flags := uint32(tableOwner)
	if r.timed {
		flags = 0
	}
	t.add(unix.NFT_MSG_NEWTABLE, netlink.Create, text(unix.NFTA_TABLE_NAME, redirectTable))
	t.add(unix.NFT_MSG_DELTABLE, 0, text(unix.NFTA_TABLE_NAME, redirectTable))
	t.add(unix.NFT_MSG_NEWTABLE, netlink.Create, text(unix.NFTA_TABLE_NAME, redirectTable), number32(unix.NFTA_TABLE_FLAGS, flags))
	t.add(unix.NFT_MSG_NEWSET, netlink.Create, text(unix.NFTA_SET_TABLE, redirectTable), text(unix.NFTA_SET_NAME, armedSet),
		number32(unix.NFTA_SET_FLAGS, unix.NFT_SET_TIMEOUT), number32(unix.NFTA_SET_KEY_TYPE, nftables.TypeIPAddr.GetNFTMagic()),
		number32(unix.NFTA_SET_KEY_LEN, 4), number32(unix.NFTA_SET_ID, 1))
	r.arm(t)
	t.add(unix.NFT_MSG_NEWCHAIN, netlink.Create, text(unix.NFTA_CHAIN_TABLE, redirectTable), text(unix.NFTA_CHAIN_NAME, redirectChain),
		text(unix.NFTA_CHAIN_TYPE, "filter"), t.nested(unix.NFTA_CHAIN_HOOK,
			number32(unix.NFTA_HOOK_HOOKNUM, unix.NF_INET_LOCAL_OUT), number32(unix.NFTA_HOOK_PRIORITY, redirectPriority)))
	for _, by := range []protocol{{unix.IPPROTO_UDP, 6, facts.UDP}, {unix.IPPROTO_TCP, 16, facts.TCP}} {
		for _, rule := range by.rules(facts) {
			t.add(unix.NFT_MSG_NEWRULE, netlink.Create|netlink.Append, text(unix.NFTA_RULE_TABLE, redirectTable),
				text(unix.NFTA_RULE_CHAIN, redirectChain), t.expressions(rule))
		}
	}
	return t
}

// A protocol is one by which a Redirection's packets go: its number, where its header has
// the checksum (0 if it has none), and at which port weft answers.
type protocol struct {
	number   byte
	checksum uint32
	port     uint16
}

// Where both headers have what the rules look at (RFC 791, 768, 9293).
const ipSource, ipDest, portSource, portDest = 12, 16, 0, 2

// rules are those for questions and replies. One for questions without a checksum, which
// UDP allows, comes first: nftables would make a wrong one of it.
func (p protocol) rules(facts Redirection) [][]expr.Any {
	rules := [][]expr.Any{p.question(facts), p.reply(facts)}
	if p.number != unix.IPPROTO_UDP {
		return rules
	}
	bare := protocol{number: p.number, port: p.port}
	none := []expr.Any{
		&expr.Payload{DestRegister: 1, Base: expr.PayloadBaseTransportHeader, Offset: p.checksum, Len: 2},
		&expr.Cmp{Op: expr.CmpOpEq, Register: 1, Data: []byte{0, 0}},
	}
	return append([][]expr.Any{slices.Concat(none, bare.question(facts))}, rules...)
}

// question is: ip saddr != PASS ip daddr @armed PROTO dport 53 notrack PROTO dport set PORT.
func (p protocol) question(facts Redirection) []expr.Any {
	return slices.Concat(p.with(portDest, facts.Resolver.Port()), []expr.Any{
		&expr.Payload{DestRegister: 1, Base: expr.PayloadBaseNetworkHeader, Offset: ipDest, Len: 4},
		&expr.Lookup{SourceRegister: 1, SetName: armedSet},
		&expr.Payload{DestRegister: 1, Base: expr.PayloadBaseNetworkHeader, Offset: ipSource, Len: 4},
		&expr.Cmp{Op: expr.CmpOpNeq, Register: 1, Data: facts.Pass.AsSlice()},
	}, p.rewrite(portDest, p.port))
}

// reply is: ip saddr RESOLVER PROTO sport PORT notrack PROTO sport set 53.
func (p protocol) reply(facts Redirection) []expr.Any {
	return slices.Concat(p.with(portSource, p.port), []expr.Any{
		&expr.Payload{DestRegister: 1, Base: expr.PayloadBaseNetworkHeader, Offset: ipSource, Len: 4},
		&expr.Cmp{Op: expr.CmpOpEq, Register: 1, Data: facts.Resolver.Addr().AsSlice()},
	}, p.rewrite(portSource, facts.Resolver.Port()))
}

// with matches packets of the protocol with a port in one of its two places.
func (p protocol) with(offset uint32, port uint16) []expr.Any {
	return []expr.Any{
		&expr.Meta{Key: expr.MetaKeyL4PROTO, Register: 1},
		&expr.Cmp{Op: expr.CmpOpEq, Register: 1, Data: []byte{p.number}},
		&expr.Payload{DestRegister: 1, Base: expr.PayloadBaseTransportHeader, Offset: offset, Len: 2},
		&expr.Cmp{Op: expr.CmpOpEq, Register: 1, Data: bigEndian(port)},
	}
}

// rewrite gives a packet another port, unseen by connection tracking.
func (p protocol) rewrite(offset uint32, port uint16) []expr.Any {
	write := &expr.Payload{OperationType: expr.PayloadWrite, SourceRegister: 1, Base: expr.PayloadBaseTransportHeader, Offset: offset, Len: 2}
	if p.checksum != 0 {
		write.CsumType, write.CsumOffset = expr.CsumTypeInet, p.checksum
	}
	return []expr.Any{&expr.Notrack{}, &expr.Immediate{Register: 1, Data: bigEndian(port)}, write}
}

func bigEndian(port uint16) []byte { return binary.BigEndian.AppendUint16(nil, port) }

// arm adds the element that the rules look for.
func (r *Redirect) arm(t *transaction) { r.element(t, unix.NFT_MSG_NEWSETELEM, netlink.Create, r.life) }

// disarm removes it, which is an error if its time is over.
func (r *Redirect) disarm(t *transaction) { r.element(t, unix.NFT_MSG_DELSETELEM, 0, 0) }

func (r *Redirect) element(t *transaction, kind int, flags netlink.HeaderFlags, life time.Duration) {
	attrs := []netlink.Attribute{t.nested(unix.NFTA_SET_ELEM_KEY, netlink.Attribute{Type: unix.NFTA_DATA_VALUE, Data: r.resolver.AsSlice()})}
	if life > 0 {
		attrs = append(attrs, netlink.Attribute{
			Type: unix.NFTA_SET_ELEM_TIMEOUT, Data: binary.BigEndian.AppendUint64(nil, uint64(life.Milliseconds())),
		})
	}
	t.add(kind, flags, text(unix.NFTA_SET_ELEM_LIST_TABLE, redirectTable), text(unix.NFTA_SET_ELEM_LIST_SET, armedSet),
		t.nested(unix.NFTA_SET_ELEM_LIST_ELEMENTS, t.nested(unix.NFTA_LIST_ELEM, attrs...)))
}

// Timed says that the kernel knows no tables with an owner (before Linux 5.12), or that
// the Redirection asked for the other way: it holds for the rest of its RedirectLife after
// its process died, and an empty shell of it stays behind.
func (r *Redirect) Timed() bool { return r.timed }

// Renew makes Redirects hold for RedirectLife from now, and tells what went wrong with
// one: it may have ended, or somebody removed its table, so open another. It waits for
// nothing, and leaves out those that an earlier call is still at: in a sandbox whose
// processes change many rules, the kernel may take long, and others must not wait for it.
// Those that share a thread are done in one turn of it.
func (k *Redirects) Renew(list []*Redirect, failed func(*Redirect, error)) {
	type turn struct {
		keeper *keeper
		part   int // of those without a keeper
	}
	turns := map[turn][]*Redirect{}
	for i, r := range list {
		if r.renewing.Swap(true) {
			continue
		}
		at := turn{keeper: r.keeper}
		if r.keeper == nil {
			at.part = i / perKeeper
		}
		turns[at] = append(turns[at], r)
	}
	for at, which := range turns {
		go renewAll(at.keeper, which, failed)
	}
}

// renewAll renews the redirects of one thread, or of none in particular.
func renewAll(k *keeper, which []*Redirect, failed func(*Redirect, error)) {
	errs := make([]error, len(which))
	for _, r := range which {
		r.mu.Lock() // not in the keeper's turn: who closes one waits for a turn
	}
	renew := func() error {
		for i, r := range which {
			errs[i] = r.renew()
		}
		return nil
	}
	if k == nil {
		_ = renew() // which never fails
	} else {
		_ = k.do(renew)
	}
	for _, r := range which {
		r.mu.Unlock()
	}
	// Not before all are unlocked: who is told may wait for somebody who closes one.
	for i, r := range which {
		if errs[i] != nil {
			failed(r, fmt.Errorf("renewing a redirect: %w", errs[i]))
		}
		r.renewing.Store(false)
	}
}

func (r *Redirect) renew() error {
	if r.wire == nil {
		return nil
	}
	began := time.Now()
	// An element that is added again keeps the time it had. One whose time is over
	// cannot be deleted.
	again := transaction{family: unix.NFPROTO_IPV4}
	r.disarm(&again)
	r.arm(&again)
	err := r.wire.do(&again)
	if errors.Is(err, unix.ENOENT) {
		late := transaction{family: unix.NFPROTO_IPV4}
		r.arm(&late)
		err = r.wire.do(&late)
	}
	if err == nil {
		r.renewed.Store(began.UnixNano())
	}
	return err
}

// Holds says whether it is in force: it was opened, or renewed, less than RedirectLife ago.
func (r *Redirect) Holds() bool {
	return time.Since(time.Unix(0, r.renewed.Load())) < r.life
}

// Close takes the redirection out of force. A sandbox that is gone is a success, and so
// is a second call.
func (r *Redirect) Close() error {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.wire == nil {
		return nil
	}
	w := r.wire
	r.wire = nil
	if err := r.end(w); err != nil {
		return fmt.Errorf("closing a redirect: %w", err)
	}
	return nil
}

func (r *Redirect) end(w *wire) error {
	if r.keeper != nil { // with the socket goes the table that it owns
		defer r.keepers.giveBack(r.keeper)
		return r.keeper.do(w.close)
	}
	t := transaction{family: unix.NFPROTO_IPV4}
	t.add(unix.NFT_MSG_DELTABLE, 0, text(unix.NFTA_TABLE_NAME, redirectTable))
	err := w.do(&t)
	if errors.Is(err, unix.ENOENT) {
		err = nil
	}
	return errors.Join(err, w.close())
}
