// Package metrics shows the numbers of a mesherstream.Manager to Prometheus.
//
//	prometheus.MustRegister(metrics.NewCollector(m))
//	app.Get("/metrics", adaptor.HTTPHandler(promhttp.Handler()))
//
// There are no labels that grow with clients or projects. A process with several managers tells them apart by
// prometheus.WrapRegistererWith. With Fiber's Prefork each child has numbers of its own, and a scrape of the app's port
// gets those of any one child: have each child serve them on a port of its own. In the folder of this package are a
// Grafana dashboard, dashboard.json, and alert rules, alerts.yml.
package metrics
