package main

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"os/signal"
	"path/filepath"
	"runtime/debug"
	"strings"
	"syscall"
	"time"

	"github.com/spf13/cobra"
	"golang.org/x/sync/errgroup"

	"github.com/weft-net/weft/bridge"
	"github.com/weft-net/weft/driver"
	"github.com/weft-net/weft/driver/parented"
	"github.com/weft-net/weft/internal/admin"
	"github.com/weft-net/weft/internal/build"
	"github.com/weft-net/weft/internal/cluster"
	"github.com/weft-net/weft/internal/config"
	"github.com/weft-net/weft/internal/daemon"
	"github.com/weft-net/weft/internal/directory"
	"github.com/weft-net/weft/internal/engine"
	"github.com/weft-net/weft/internal/firewall"
	"github.com/weft-net/weft/internal/hostport"
	"github.com/weft-net/weft/internal/journal"
	"github.com/weft-net/weft/internal/kernel"
	"github.com/weft-net/weft/internal/names"
	"github.com/weft-net/weft/internal/namesync"
	"github.com/weft-net/weft/internal/netsync"
	"github.com/weft-net/weft/internal/store"
	"github.com/weft-net/weft/ipam"
	"github.com/weft-net/weft/ipvlan"
	"github.com/weft-net/weft/macvlan"
	"github.com/weft-net/weft/overlay"
	"github.com/weft-net/weft/plugin"
)

// Default places. /var/lib and /run are the host's in a managed plugin.
const (
	defaultSocket  = "/run/docker/plugins/weft.sock"
	defaultJournal = "/var/lib/weft/journal.db"
	defaultEngine  = "/run/docker.sock"
)

// serveFlags are the places, for services and tests that need others.
type serveFlags struct{ socket, journal, engine, bus string }

// A startError kept the daemon from its start: a setting is bad.
type startError struct{ error }

// awaitEngine stays until the engine gives the plugin up, about ten seconds
// after its start. From a plugin that ends by itself before, the engine loses
// what it wrote, starts it again meanwhile, and cannot enable it once the
// setting is right (tried on 20.10.24 and 26.1.5).
func awaitEngine() {
	const most = 15 * time.Second
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGTERM, syscall.SIGINT)
	defer stop()
	select {
	case <-ctx.Done():
	case <-time.After(most):
	}
}

func serveCommand() *cobra.Command {
	var f serveFlags
	cmd := &cobra.Command{
		Use: "serve", Short: "Run the driver", Args: cobra.NoArgs,
		Long: "serve is what the plugin and the systemd unit run. Settings are environment variables:\n\n" + settingsHelp(),
		RunE: func(cmd *cobra.Command, _ []string) error {
			err := serve(cmd.Context(), f)
			if errors.Is(err, config.ErrSetting) || errors.Is(err, ipam.ErrConfig) || errors.Is(err, store.ErrConfig) {
				return startError{err}
			}
			return err
		},
	}
	cmd.Flags().StringVar(&f.socket, "socket", defaultSocket, "unix socket that the engine calls")
	cmd.Flags().StringVar(&f.journal, "journal", defaultJournal, "file of what was promised to the engine")
	cmd.Flags().StringVar(&f.engine, "engine", defaultEngine, "socket of the Docker API")
	cmd.Flags().StringVar(&f.bus, "bus", firewall.SystemBus, "address of the system's D-Bus, for firewalld")
	return cmd
}

func settingsHelp() string {
	var text strings.Builder
	for _, s := range config.Settings() {
		fmt.Fprintf(&text, "  %-19s %s (default %q)\n", s.Name, s.Help, s.Default)
	}
	return text.String()
}

// house is the daemon's parts.
type house struct {
	flags    serveFlags
	started  time.Time
	log      *slog.Logger
	journal  *journal.Journal
	hostID   string
	kernel   *kernel.Host
	firewall *firewall.NFT
	ports    *hostport.Table
	later    *kernel.Later
	engine   *engine.Engine
	driver   *driver.Driver
	ipam     *ipam.IPAM

	overlay *overlay.Kind
	macvlan *macvlan.Kind
	ipvlan  *ipvlan.Kind
	parents *parented.Parents

	advertise string // WEFT_ADVERTISE
	vxlanPort uint16 // WEFT_VXLAN_PORT

	// Only with WEFT_STORE.
	store     *store.Store
	cluster   *cluster.Cluster
	identity  cluster.Identity
	directory *directory.Directory
	sync      *netsync.Agent
	book      *names.Book
	namesync  *namesync.Agent
	resolver  *names.Service // only with WEFT_NAMES=on
	fronts    *names.Fronts  // only with WEFT_NAMES=address
	redirects firewall.Redirects
	renewed   bool // the journal was another machine's
}

// serve listens first, so that the engine's ten seconds are kept, then takes up
// the journal, then answers.
func serve(ctx context.Context, f serveFlags) (retErr error) {
	cfg, err := config.Parse(os.Environ())
	if err != nil {
		return err
	}
	// The heap of a host on its own is small and short-lived garbage makes most of it:
	// collecting often costs little and saves a third of the memory. A member of a
	// cluster has more of both, and more room.
	percent := 20
	if cfg.Store.Endpoints != "" {
		percent = 50
	}
	debug.SetGCPercent(percent)
	log := slog.New(slog.NewTextHandler(os.Stderr, &slog.HandlerOptions{Level: cfg.Log}))
	log.Info("start", "version", build.Read(version).Version)
	listener, err := plugin.ActivationListener()
	if err == nil && listener == nil {
		listener, err = plugin.Listen(ctx, f.socket)
	}
	if err != nil {
		return err
	}
	h, err := open(ctx, cfg, f, log)
	if err != nil {
		return errors.Join(err, listener.Close())
	}
	defer func() { retErr = errors.Join(retErr, h.close()) }()
	if err := h.driver.Restore(ctx); err != nil {
		return errors.Join(err, listener.Close())
	}
	for _, n := range h.driver.Networks() {
		h.attend(n)
	}
	if err := h.settleIdentity(ctx); err != nil {
		return errors.Join(err, listener.Close())
	}
	handler := plugin.New(plugin.Config{Network: bound{driver.NewWire(h.driver), h.driver, h.ipam, h.endpointChanged}, IPAM: ipam.NewWire(h.ipam), Logger: log})
	if err := daemon.ReleaseProgram(); err != nil {
		log.Warn("memory", "err", err)
	}
	questions, err := admin.Listen(ctx, filepath.Dir(f.socket))
	if err != nil {
		return errors.Join(err, listener.Close())
	}
	if err := daemon.Notify("READY=1"); err != nil {
		log.Warn("systemd", "err", err)
	}
	return daemon.Run(ctx, log,
		daemon.Task{Name: "plugin", Run: func(ctx context.Context) error { return handler.Serve(ctx, listener) }},
		daemon.Task{Name: "admin", Run: func(ctx context.Context) error { return admin.Serve(ctx, questions, h.source(), log) }},
		daemon.Task{Name: "reconcile", Run: h.reconcile},
		daemon.Task{Name: "leaks", Run: h.collectLeaks},
		daemon.Task{Name: "engine", Run: h.engine.Run},
		daemon.Task{Name: "ipam", Run: h.ipam.Run},
		daemon.Task{Name: "cluster", Run: h.runCluster},
		daemon.Task{Name: "overlay", Run: h.overlay.Run},
		daemon.Task{Name: "macvlan", Run: h.macvlan.Run},
		daemon.Task{Name: "ipvlan", Run: h.ipvlan.Run},
		daemon.Task{Name: "names", Run: h.runResolver},
		daemon.Task{Name: "later", Run: h.later.Run},
		daemon.Task{Name: "memory", Run: func(ctx context.Context) error { daemon.GiveBack(ctx, log); return nil }},
	)
}

// open makes every part; each gets what it needs and nothing else.
func open(ctx context.Context, cfg config.Config, f serveFlags, log *slog.Logger) (_ *house, retErr error) {
	h := &house{flags: f, started: time.Now(), log: log}
	defer func() {
		if retErr != nil {
			retErr = errors.Join(retErr, h.close())
		}
	}()
	part := func(name string) *slog.Logger { return log.With("part", name) }
	var err error
	if h.journal, err = journal.Open(f.journal); err != nil {
		return nil, err
	}
	var isNew bool
	if h.hostID, isNew, err = hostID(ctx, h.journal); err != nil {
		return nil, err
	}
	if h.kernel, err = kernel.Open(kernel.Config{Logger: part("kernel")}); err != nil {
		return nil, err
	}
	zones := firewall.NewFirewalld(f.bus, part("firewalld"))
	if h.firewall, err = firewall.New(firewall.Config{Zones: zones, Logger: part("firewall")}); err != nil {
		return nil, err
	}
	h.later = kernel.NewLater(h.kernel, 0, part("later"))
	h.ports = hostport.New(hostport.Config{Holder: h.kernel.PortHolder, Logger: part("ports")})
	h.engine = engine.New(engine.Config{Socket: f.engine, OnNetworks: h.wakeSync, OnContainer: h.containerChanged, Logger: part("engine")})
	blind, err := h.blind(isNew)
	if err != nil {
		return nil, err
	}
	if err := h.openCluster(cfg, part); err != nil { //nolint:contextcheck // the store lives until close
		return nil, err
	}
	h.openNames(cfg, part)
	if h.ipam, err = h.openIPAM(cfg, blind, part("ipam")); err != nil {
		return nil, err
	}
	h.driver, err = driver.New(driver.Config{
		Journal: h.journal, Kernel: h.kernel, Firewall: h.firewall, Kinds: h.kinds(cfg, part),
		Scope: cfg.Scope, Holders: h.holders, EngineUp: h.engineUp, Blind: h.mayNotSweep(blind), OnLook: h.tellLines, Logger: part("driver"),
	})
	if err != nil {
		return nil, err
	}
	h.tellConflicts() // those of an earlier run, before a link is made or mended
	return h, nil
}

// kinds are the modes that networks have. Without a store the overlay only says what
// is missing.
func (h *house) kinds(cfg config.Config, part func(string) *slog.Logger) map[string]driver.Kind {
	over := overlay.Config{
		Kernel: h.kernel, Firewall: h.firewall, Ports: h.ports, Later: h.later, DirectSafe: h.engine.DirectSafe,
		Addresses: h.ipam, Underlay: h.underlay, Port: cfg.VXLANPort, Logger: part("overlay"),
	}
	if h.cluster != nil {
		over.Directory, over.Me, over.Moved, over.Peers = h.directory, h.cluster.Me, h.cluster.Wake, h.cluster.Addresses
	}
	h.overlay = overlay.New(over)
	h.parents = parented.NewParents(h.kernel, h.log)
	on := parented.Config{Kernel: h.kernel, Later: h.later, Parents: h.parents, Addresses: h.ipam, Seed: h.hostID, Shared: h.ipam.Shared, DirectSafe: h.engine.DirectSafe}
	if h.cluster != nil {
		on.Directory = h.directory
	}
	on.Logger = part("macvlan")
	h.macvlan = macvlan.New(on)
	on.Logger = part("ipvlan")
	h.ipvlan = ipvlan.New(on)
	return map[string]driver.Kind{
		"overlay": h.overlay, "macvlan": h.macvlan, "ipvlan": h.ipvlan,
		"bridge": bridge.New(bridge.Config{
			Kernel: h.kernel, Firewall: h.firewall, Ports: h.ports, Later: h.later,
			Seed: h.hostID, DirectSafe: h.engine.DirectSafe, Logger: part("bridge"),
		}),
	}
}

// attend takes up a network of an earlier process, before the first request is answered.
func (h *house) attend(n driver.Network) {
	h.parents.Attend(n)
	h.macvlan.Attend(n)
	h.ipvlan.Attend(n)
	if n.Mode == "overlay" {
		h.overlay.Attend(n)
	}
}

// close frees everything of this process and nothing of the kernel's state:
// containers keep their network while weft is away.
func (h *house) close() error {
	var errs []error
	if h.store != nil {
		errs = append(errs, h.store.Close())
	}
	if h.ports != nil {
		h.ports.Close()
	}
	if h.firewall != nil {
		errs = append(errs, h.firewall.Close())
	}
	if h.kernel != nil {
		errs = append(errs, h.kernel.Close())
	}
	if h.journal != nil {
		errs = append(errs, h.journal.Close())
	}
	return errors.Join(errs...)
}

// runCluster keeps the membership, the directory and the networks in step with it; a host on its own has none.
func (h *house) runCluster(ctx context.Context) error {
	if h.cluster == nil {
		<-ctx.Done()
		return nil
	}
	g, ctx := errgroup.WithContext(ctx)
	g.Go(func() error { return h.cluster.Run(ctx) })
	g.Go(func() error { return h.directory.Run(ctx) })
	g.Go(func() error { return h.sync.Run(ctx) })
	g.Go(func() error { return h.namesync.Run(ctx) })
	g.Go(func() error { return h.watchClashes(ctx) })
	return g.Wait()
}

// reconcile runs the driver's loop with hints from the kernel and the firewall.
func (h *house) reconcile(ctx context.Context) error {
	events, err := h.kernel.Watch(ctx)
	if err != nil {
		return err
	}
	return h.driver.Run(ctx, driver.Hints{Kernel: h.passOn(events), Firewall: h.firewall.Watch(ctx)})
}

// passOn lets the overlay have the kernel's events too, at once: the driver waits for
// more of them first.
func (h *house) passOn(events <-chan struct{}) <-chan struct{} {
	out := make(chan struct{}, 1)
	go func() {
		defer close(out)
		for range events {
			h.overlay.LinksChanged()
			select {
			case out <- struct{}{}:
			default: // one is enough
			}
		}
	}()
	return out
}
