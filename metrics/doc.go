// Package metrics exports the statistics of a mesherstream.Manager to Prometheus.
//
//	prometheus.MustRegister(metrics.NewCollector(m))
//	app.Get("/metrics", adaptor.HTTPHandler(promhttp.Handler()))
//
// No label grows with the number of clients or projects. A process with several managers distinguishes them with
// prometheus.WrapRegistererWith. With Fiber's Prefork each child has its own statistics, and a scrape of the app's port
// reaches an arbitrary child. So have each child serve its metrics on a port of its own.
//
// The folder of this package contains a Grafana dashboard, dashboard.json, and alert rules, alerts.yml.
package metrics
