package firewall

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/godbus/dbus/v5"
)

// SystemBus is where the system's D-Bus listens.
const SystemBus = "unix:path=/run/dbus/system_bus_socket"

const (
	// zoneName is the zone of weft's bridges, policyName what lets packets from
	// other zones come to them.
	zoneName, policyName = "weft", "weft-forwarding"
	// zoneTimeout bounds each call of a Firewalld, whatever firewalld does.
	zoneTimeout = 2 * time.Second
	// zoneReload is how long a reload may take before another is asked for.
	zoneReload = time.Minute
	// busRetry is how often Watch looks for a bus that is not there.
	busRetry = 5 * time.Second
	// madeByWeft is the description of what weft made, and Reset may remove.
	madeByWeft = "Bridges of weft. Made by weft, which filters their packets itself; weft reset removes it."
)

// Firewalld puts bridges into a zone of firewalld, by D-Bus. Where there is no
// bus, or no firewalld on it, it has nothing to do; it looks anew each time.
//
// The zone accepts what comes from the bridges, and a policy what goes to them:
// from firewalld 1.0 on, a zone's target says nothing about packets to it. Only
// a translated packet passes firewalld without a policy, so published ports
// would do without one and routed networks would not. What may reach a container
// is decided by table inet weft before.
//
// firewalld makes zones and policies in its permanent configuration only, which
// takes a reload. So weft makes both once, with the first bridge that finds no
// such zone, and leaves them there without a bridge: to remove them with the
// last network would cost a reload with the next first one, and a reload loses
// what the operator changed at run time. Membership is never permanent. Reset
// removes zone and policy from the permanent configuration without a reload;
// what firewalld holds at run time is then without an interface and goes with
// its next reload or start. An operator or a package that provides a zone of
// this name spares the reload; weft uses it as it is and does not remove it.
type Firewalld struct {
	address string
	log     *slog.Logger

	mu sync.Mutex // protects the following
	// reload is when weft last asked for one, refused why it was not done.
	reload  time.Time
	refused error
	// state is the answer of State.
	state string
	// elsewhere are the bridges that the operator put into another zone.
	elsewhere map[string]string
}

// NewFirewalld returns the firewalld of a bus; an empty address means SystemBus.
// The logger may be nil. It connects to nothing yet.
func NewFirewalld(address string, log *slog.Logger) *Firewalld {
	if log == nil {
		log = slog.New(slog.DiscardHandler)
	}
	return &Firewalld{address: cmp.Or(address, SystemBus), log: log, elsewhere: map[string]string{}}
}

// Join puts the bridges into weft's zone and returns what it had to change. A
// bridge that the permanent configuration has in another zone stays there. It
// fails only if firewalld refuses: who cannot be reached is logged, and Watch
// hints when he can.
func (f *Firewalld) Join(ctx context.Context, bridges ...string) ([]string, error) {
	var joined []string
	err := f.do(ctx, func(d daemon) error {
		members, err := d.members()
		if code(err) == codeNoZone {
			members, err = nil, f.found(d)
		}
		if err != nil {
			return err
		}
		for _, bridge := range bridges {
			if slices.Contains(members, bridge) {
				continue
			}
			ok, err := f.join(d, bridge)
			if err != nil {
				return fmt.Errorf("zone %s: joining with %s: %w", zoneName, bridge, err)
			}
			if ok {
				joined = append(joined, fmt.Sprintf("firewalld: %s joined zone %s", bridge, zoneName))
			}
		}
		return nil
	})
	return joined, err
}

func (f *Firewalld) join(d daemon, bridge string) (bool, error) {
	permanent := ""
	if err := d.call(configObject, "config.getZoneOfInterface", bridge).Store(&permanent); err != nil {
		return false, err
	}
	f.mu.Lock()
	said := f.elsewhere[bridge]
	f.elsewhere[bridge] = permanent
	f.mu.Unlock()
	if permanent != "" && permanent != zoneName {
		if said != permanent {
			f.log.Warn("bridge stays in the zone that the configuration of firewalld puts it into", "bridge", bridge, "zone", permanent)
		}
		return false, nil
	}
	err := d.call(mainObject, "zone.changeZoneOfInterface", zoneName, bridge).Err
	return err == nil, allow(err, "ZONE_ALREADY_SET", "ALREADY_ENABLED")
}

// found makes the zone and the policy, and has them loaded.
func (f *Firewalld) found(d daemon) error {
	f.mu.Lock()
	wait, refused := time.Since(f.reload) < zoneReload, f.refused
	f.mu.Unlock()
	if wait {
		return cmp.Or(refused, fmt.Errorf("zone %s is not loaded yet", zoneName))
	}
	if err := d.call(configObject, "config.addZone2", zoneName, map[string]any{
		"description": madeByWeft, "target": "ACCEPT", "forward": true,
	}).Err; allow(err, codeExists) != nil {
		return fmt.Errorf("making zone %s: %w", zoneName, err)
	}
	if err := d.call(configObject, "config.addPolicy", policyName, map[string]any{
		"description": madeByWeft, "target": "ACCEPT", "priority": policyPriority,
		"ingress_zones": []string{"ANY"}, "egress_zones": []string{zoneName},
	}).Err; allow(err, codeExists) != nil {
		return fmt.Errorf("making policy %s: %w", policyName, err)
	}
	f.log.Info("firewalld reloads, for a zone of weft's", "zone", zoneName, "policy", policyName)
	f.mu.Lock()
	f.reload, f.refused = time.Now(), nil
	f.mu.Unlock()
	err := d.call(mainObject, "reload").Err
	if err == nil {
		return nil
	}
	err = fmt.Errorf("reloading: %w", err)
	if code(err) != "" {
		f.mu.Lock()
		f.refused = err
		f.mu.Unlock()
	}
	return err
}

// policyPriority puts the policy behind what the operator's zones refuse.
const policyPriority int32 = 100

// Leave takes the bridges out of weft's zone.
func (f *Firewalld) Leave(ctx context.Context, bridges ...string) error {
	return f.do(ctx, func(d daemon) error { return d.leave(bridges) })
}

func (d daemon) leave(bridges []string) error {
	var errs []error
	for _, bridge := range bridges {
		err := d.call(mainObject, "zone.removeInterface", zoneName, bridge).Err
		if err = allow(err, codeNoZone, "UNKNOWN_INTERFACE", "ZONE_CONFLICT", "NOT_ENABLED"); err != nil {
			errs = append(errs, fmt.Errorf("zone %s: leaving with %s: %w", zoneName, bridge, err))
		}
	}
	return errors.Join(errs...)
}

// Reset takes every bridge out of weft's zone and removes the zone and the
// policy from the permanent configuration, if weft made them.
func (f *Firewalld) Reset(ctx context.Context) error {
	f.mu.Lock()
	f.reload, f.refused = time.Time{}, nil
	f.mu.Unlock()
	return f.do(ctx, func(d daemon) error {
		members, err := d.members()
		if err = allow(err, codeNoZone); err != nil {
			return err
		}
		// The policy names the zone: it goes first.
		return errors.Join(d.leave(members),
			d.remove("config.getPolicyByName", policyName, "config.policy.getSettings", "config.policy.remove"),
			d.remove("config.getZoneByName", zoneName, "config.zone.getSettings2", "config.zone.remove"))
	})
}

// State says how weft gets on with firewalld; empty where there is none.
func (f *Firewalld) State() string {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.state
}

// Watch calls hint when firewalld was started, stopped or reloaded, which takes
// bridges out of their zone, until the context is done. A firewalld that starts
// is one that answers.
func (f *Firewalld) Watch(ctx context.Context, hint func()) {
	for ctx.Err() == nil {
		if err := f.follow(ctx, hint); err != nil && ctx.Err() == nil {
			f.log.Debug("bus is not followed", "address", f.address, "error", err)
		}
		select {
		case <-ctx.Done():
		case <-time.After(busRetry):
		}
	}
}

func (f *Firewalld) follow(ctx context.Context, hint func()) error {
	conn, err := dbus.Connect(f.address, dbus.WithContext(ctx), dbus.WithSignalHandler(dbus.NewSequentialSignalHandler()))
	if err != nil {
		return err
	}
	defer func() { _ = conn.Close() }()
	signals := make(chan *dbus.Signal, 16)
	conn.Signal(signals)
	if err := errors.Join(
		conn.AddMatchSignalContext(ctx, dbus.WithMatchSender(busName), dbus.WithMatchInterface(busName), dbus.WithMatchMember("Reloaded")),
		conn.AddMatchSignalContext(ctx, dbus.WithMatchInterface("org.freedesktop.DBus"), dbus.WithMatchMember("NameOwnerChanged"), dbus.WithMatchArg(0, busName)),
	); err != nil {
		return err
	}
	d := daemon{conn: conn, life: ctx}
	// Who starts answers nothing until he has loaded his rules.
	await := func() {
		_ = d.call(mainObject, "getDefaultZone").Err
		hint()
	}
	// What happened before the subscription was missed.
	if d.runs() {
		await()
	}
	for s := range signals {
		switch {
		case s.Name == busName+".Reloaded":
			hint()
		case !ownerChanged(s):
		case s.Body[2] != "":
			await()
		default:
			hint()
		}
	}
	return errors.New("the bus hung up")
}

// ownerChanged says whether the signal tells that firewalld came or went.
func ownerChanged(s *dbus.Signal) bool {
	return s.Name == "org.freedesktop.DBus.NameOwnerChanged" && len(s.Body) == 3 && s.Body[0] == busName
}

// do works with firewalld, if there is one, and says what comes of it. Only a
// refusal is an error to the caller.
func (f *Firewalld) do(parent context.Context, work func(daemon) error) error {
	ctx, cancel := context.WithTimeout(parent, zoneTimeout)
	defer cancel()
	conn, err := dbus.Connect(f.address, dbus.WithContext(ctx))
	if err != nil {
		f.say("", nil)
		return parent.Err()
	}
	defer func() { _ = conn.Close() }()
	d := daemon{conn: conn, life: ctx}
	if !d.runs() {
		f.say("", nil)
		return parent.Err()
	}
	err = work(d)
	switch c := code(err); {
	case err == nil:
		f.say("firewalld: the bridges are in zone "+zoneName, nil)
	case parent.Err() != nil:
		return parent.Err()
	case c != "" && c != "RUNNING_BUT_FAILED":
		f.say("firewalld refused: "+err.Error(), nil)
		return fmt.Errorf("%w: %w", ErrFirewalld, err)
	case ctx.Err() != nil:
		f.say(fmt.Sprintf("firewalld: no answer within %v; the bridges join zone %s when it answers", zoneTimeout, zoneName), err)
	default:
		f.say("firewalld: "+err.Error(), err)
	}
	return nil
}

// say keeps the state, and logs an error that is news.
func (f *Firewalld) say(state string, err error) {
	f.mu.Lock()
	news := f.state != state
	f.state = state
	f.mu.Unlock()
	if news && err != nil {
		f.log.Warn("firewalld may drop packets of weft's bridges", "state", state, "error", err)
	}
}

// The names of firewalld on the bus, and the objects to call.
const (
	busName      = "org.fedoraproject.FirewallD1"
	mainObject   = dbus.ObjectPath("/org/fedoraproject/FirewallD1")
	configObject = dbus.ObjectPath("/org/fedoraproject/FirewallD1/config")
)

// Answers of firewalld that mean no harm.
const (
	codeNoZone   = "INVALID_ZONE"
	codeNoPolicy = "INVALID_POLICY"
	codeExists   = "NAME_CONFLICT"
)

// A daemon is a connection to firewalld for the time of a call.
type daemon struct {
	conn *dbus.Conn
	life context.Context
}

// runs asks the bus, which answers whatever firewalld does.
func (d daemon) runs() bool {
	owned := false
	err := d.conn.BusObject().CallWithContext(d.life, "org.freedesktop.DBus.NameHasOwner", 0, busName).Store(&owned)
	return err == nil && owned
}

func (d daemon) call(object dbus.ObjectPath, method string, args ...any) *dbus.Call {
	return d.conn.Object(busName, object).CallWithContext(d.life, busName+"."+method, dbus.FlagNoAutoStart, args...)
}

// members returns the interfaces in weft's zone.
func (d daemon) members() ([]string, error) {
	var names []string
	err := d.call(mainObject, "zone.getInterfaces", zoneName).Store(&names)
	return names, err
}

// remove removes a thing from the permanent configuration, if weft made it.
func (d daemon) remove(find, name, look, remove string) error {
	var object dbus.ObjectPath
	if err := d.call(configObject, find, name).Store(&object); err != nil {
		return allow(err, codeNoZone, codeNoPolicy)
	}
	var settings map[string]dbus.Variant
	err := d.call(object, look).Store(&settings)
	if err == nil && settings["description"].Value() == madeByWeft {
		err = d.call(object, remove).Err
	}
	if err != nil {
		return fmt.Errorf("removing %s from the permanent configuration: %w", name, err)
	}
	return nil
}

// code returns the word by which firewalld says no; empty if it was not
// firewalld that did.
func code(err error) string {
	var e dbus.Error
	if !errors.As(err, &e) || !strings.HasPrefix(e.Name, busName) {
		return ""
	}
	word, _, _ := strings.Cut(e.Error(), ":")
	return cmp.Or(word, e.Name)
}

// allow returns the error unless it is one of these answers.
func allow(err error, codes ...string) error {
	if c := code(err); c != "" && slices.Contains(codes, c) {
		return nil
	}
	return err
}
